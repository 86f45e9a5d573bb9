"""Milliseconds of suppression per image in the worst case, against 200 ms. By hand, not a test:

    OMP_NUM_THREADS=1 python tests/bench/nms.py [anchors=8400] [classes=80] [rounds=7]

Every anchor is above the threshold for every class and every class counts (multi_label), so that 8400 x 80 = 672,000
candidates compete for 30,000 places. Scenes: "spread", boxes all over the picture; "heap", copies of 40 objects, so
that nearly all candidates are dropped; "late", few detections among the best 9,600 and thousands behind them;
"equal", one score everywhere; "usual", what an evaluation sees: most scores below the threshold.
"""

from __future__ import annotations

import sys
import time

import torch

from bitfalcon_plugin.ops.nms import non_max_suppression

SIDE = 640.0


def scene(kind: str, anchors: int, classes: int, seed: int = 0) -> torch.Tensor:
    """Return predictions (1, 4 + classes, anchors) in xywh px of a 640 px picture, scores above 0.001."""
    generator = torch.Generator().manual_seed(seed)
    scale, shift = torch.tensor([SIDE, SIDE, 60, 60]), torch.tensor([0.0, 0, 4, 4])
    spread = torch.rand(anchors, 4, generator=generator) * scale + shift
    scale, shift = torch.tensor([SIDE, SIDE, 100, 100]), torch.tensor([0.0, 0, 60, 60])
    objects = torch.rand(40, 4, generator=generator) * scale + shift
    owner = torch.randint(40, (anchors,), generator=generator)
    heap = objects[owner] + torch.randn(anchors, 4, generator=generator) * 2
    scores = torch.rand(anchors, classes, generator=generator) * 0.9 + 0.05
    if kind == "heap":
        spread = heap
    elif kind == "late":  # 9,600 better candidates of few objects, then boxes that do not touch
        first = torch.arange(anchors) < 120
        row = int(anchors**0.5) + 1
        index, step = torch.arange(anchors), SIDE / row
        apart = torch.stack((index % row * step, index // row * step), 1)  # (A, 2)
        apart = torch.cat((apart, torch.full((anchors, 2), 0.9 * step)), 1)
        spread = torch.where(first[:, None], heap, apart)
        scores = torch.where(first[:, None], scores + 1, scores)
    elif kind == "equal":
        scores = torch.full_like(scores, 0.5)
    elif kind == "usual":
        scores = scores**40
    return torch.cat((spread, scores), 1).t()[None].contiguous()


def milliseconds(prediction: torch.Tensor, rounds: int, **options) -> tuple[float, int]:
    """Return the fastest of some rounds (others may share the machine), and the number of detections."""
    best, count = float("inf"), 0
    with torch.inference_mode():
        for _ in range(rounds):
            start = time.perf_counter()
            count = len(non_max_suppression(prediction, conf=0.001, **options)[0])
            best = min(best, time.perf_counter() - start)
    return best * 1e3, count


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    anchors, classes, rounds = (
        int(options.get(key, usual)) for key, usual in (("anchors", 8400), ("classes", 80), ("rounds", 7))
    )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {anchors} anchors, {classes} classes")
    for kind in ("spread", "heap", "late", "equal", "usual"):
        prediction = scene(kind, anchors, classes)
        for extra in ({}, {"agnostic": True}, {"multi_label": False}, {"max_det": 3000}):
            ms, count = milliseconds(prediction, rounds, **{"iou": 0.7, "multi_label": True, **extra})
            words = ", ".join(f"{key}={value}" for key, value in extra.items()) or "multi_label=True"
            print(f"{kind:>7} {words:>18}: {ms:7.1f} ms, {count} detections")


if __name__ == "__main__":
    main()
