"""Cost of area attention in milliseconds, by memory format and by how q, k and v lie in memory. By hand, not a test:

    python tests/bench/attention.py [threads] [batch] [device]

`Attention` hands q, k and v to the kernel as views of one (B, N, 3C) tensor whose channels are contiguous.
Rows: the whole block in training and in inference; the kernel alone on such views ("views"), on copies of its own
("copies", the floor) and on views whose channels lie N apart ("apart", what a channels-first map gives without a copy).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

from bitfalcon_plugin.models.modules.attention import AAttn

# (side, channels, heads, area): rows 6 and 8 of yolov12 n, s and m at 640 px
CASES = [(40, 64, 2, 4), (20, 128, 4, 1), (40, 128, 4, 4), (20, 256, 8, 1), (40, 256, 8, 4)]
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def milliseconds(function: Callable[[], object], device: torch.device, rounds: int = 15) -> float:
    """Return the fastest of some rounds; others may share the machine."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def heads_of(qkv: torch.Tensor, heads: int, area: int) -> list[torch.Tensor]:
    """(B, N, 3C) -> q, k, v of (B*area, heads, N/area, C/heads), without a copy."""
    parts = qkv.unflatten(1, (area, -1)).flatten(0, 1).chunk(3, -1)
    return [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts]


def kernel_times(side: int, width: int, heads: int, area: int, batch: int, device: torch.device) -> dict[str, float]:
    tokens = torch.randn(batch, side * side, 3 * width, device=device)
    apart = tokens.transpose(1, 2).contiguous().transpose(1, 2)  # the same shape, channels N apart
    kinds = {"views": heads_of(tokens, heads, area), "apart": heads_of(apart, heads, area)}
    kinds["copies"] = [part.contiguous() for part in kinds["views"]]
    with torch.inference_mode():
        return {
            name: milliseconds(lambda qkv=qkv: scaled_dot_product_attention(*qkv), device)
            for name, qkv in kinds.items()
        }


def block_times(side: int, width: int, heads: int, area: int, batch: int, device: torch.device) -> dict[str, float]:
    times = {}
    for name, layout in LAYOUTS.items():
        block = AAttn(width, heads, area).to(device, memory_format=layout)
        x = torch.randn(batch, width, side, side, device=device).to(memory_format=layout)
        with torch.inference_mode():
            block.eval()
            times[f"{name} eval"] = milliseconds(lambda block=block, x=x: block(x), device)
        block.train()
        times[f"{name} train"] = milliseconds(lambda block=block, x=x: block(x).sum().backward(), device)
    return times


def main(threads: int = 1, batch: int = 2, device: str = "cpu") -> None:
    torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {device}, {threads} threads, batch {batch}, milliseconds")
    for case in CASES:
        times = block_times(*case, batch, torch.device(device)) | kernel_times(*case, batch, torch.device(device))
        print("side {} width {} heads {} area {}: ".format(*case) + "  ".join(f"{k} {v:.2f}" for k, v in times.items()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:4])
