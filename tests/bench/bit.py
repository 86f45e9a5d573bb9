"""Measure what ternary layers cost and save on this machine:

    python tests/bench/bit.py [speed|shapes|profile|isa|step|load] [scale=n] [imgsz=640] [rounds=9]

speed: milliseconds of one image, in turns in one process: the plain float model in NCHW and channels last, `default`,
and the ternary models as predict runs them, whole and head alone, with static and dynamic scales. shapes: each
convolution by itself, fused in floats and in integers. profile: where the time of bit=all goes. isa: speed under
emulated older processors. step: a training step at 320 px, batch 16. load: a packed file.

Weights are random, and batch norms are measured on noise, so that activations have the size of a trained model's.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from bitfalcon_plugin.benchmark.timing import interleave, machine, machine_line
from bitfalcon_plugin.bit import bitify, calibrate, freeze, pack
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.inference.fused_conv import FusedConv2d
from bitfalcon_plugin.models.inference.prepare import prepare_for_inference
from bitfalcon_plugin.models.inference.threads import threads
from bitfalcon_plugin.models.modules.bit_kernels import Geometry, OneDnn, byte_codes, describe
from bitfalcon_plugin.models.weights.foreign import open_checkpoint
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks.detect import detection_loss

ISAS = ("AVX2", "AVX2_VNNI", "AVX512_CORE", "DEFAULT")
CAPABILITY = {"AVX2": "avx2", "AVX2_VNNI": "avx2"}


def ternary(model, bit: str, **options):
    made = copy.deepcopy(model)
    bitify(made, bit, **options)
    calibrate(made, [torch.rand(4, 3, 128, 128)])
    return prepare_for_inference(freeze(made), torch.device("cpu"))


def start(scale: str, imgsz: int):
    torch.manual_seed(0)
    return build("yolov12.yaml", scale).eval().requires_grad_(False), torch.rand(1, 3, imgsz, imgsz)


def speed(scale: str, imgsz: int, rounds: int) -> None:
    model, x = start(scale, imgsz)
    last = x.contiguous(memory_format=torch.channels_last)
    plain, best = copy.deepcopy(model).fuse(), copy.deepcopy(model).fuse().to(memory_format=torch.channels_last)
    models = {
        "bit=all": ternary(model, "all"),
        "bit=all, dynamic": ternary(model, "all", act="dynamic"),
        "bit=head": ternary(model, "head"),
        "bit=neck": ternary(model, "neck"),
        "bit=backbone": ternary(model, "backbone"),
    }
    usual = prepare_for_inference(model, torch.device("cpu"))
    runs = {
        "float NCHW": lambda: plain(x),
        "float channels last": lambda: best(last),
        "float default": lambda: usual(last),
    }
    if torch.backends.cpu.get_cpu_capability() == "AVX512" and "ONEDNN_MAX_CPU_ISA" not in os.environ:
        half, x16 = copy.deepcopy(best).to(torch.bfloat16), last.to(torch.bfloat16)
        runs["bfloat16 channels last"] = lambda: half(x16)
    runs |= {name: (lambda network: lambda: network(last))(made) for name, made in models.items()}
    with torch.inference_mode():
        show(interleave(runs, rounds=rounds, warmup=3), "float NCHW", "float channels last")
        maps = [torch.rand(1, c, int(imgsz // s), int(imgsz // s)) for c, s in zip(channels(model), model.strides)]
        lasts = [m.contiguous(memory_format=torch.channels_last) for m in maps]
        heads = {
            "head, float NCHW": lambda: plain.head(maps),
            "head, float channels last": lambda: best.head(lasts),
            "head, float default": lambda: usual.head(lasts),
            "head, bit": lambda: models["bit=head"].head(lasts),
        }
        show(interleave(heads, rounds=3 * rounds, warmup=3), "head, float NCHW", "head, float channels last")


def channels(model) -> list[int]:
    return [branch[0].conv.in_channels for branch in model.head.cv2]


def show(found, *bases: str) -> None:
    for name, timing in found.items():
        ratios = ", ".join(f"{timing.faster_than(found[base]):.2f}x of {base}" for base in bases)
        print(f"{name:<28} {timing}  {ratios}", flush=True)


def shapes(scale: str, imgsz: int, rounds: int) -> None:
    """Time each convolution with SiLU by itself: fused in floats, in integers to floats and bytes; and quantising."""
    model, x = start(scale, imgsz)
    model.fuse().to(memory_format=torch.channels_last)
    layers_of: dict[tuple, list] = {}

    def see(layer, inputs, _):
        key = tuple(inputs[0].shape[1:]), layer.out_channels, layer.kernel_size[0], layer.stride[0], layer.groups
        layers_of.setdefault(key, []).append(layer)

    def by_size(item):
        ((c, h, w), out, *_), layers = item
        return -len(layers) * c * h * w * out

    for layer in model.modules():
        if type(layer) is torch.nn.Conv2d and layer is not model.head.dfl.conv:
            layer.register_forward_hook(see)
    with torch.inference_mode():
        model(x.contiguous(memory_format=torch.channels_last))
        total = [0.0] * 4
        for key, layers in sorted(layers_of.items(), key=by_size):
            times = one_shape(key, layers[0], rounds)
            total = [all_ + len(layers) * time for all_, time in zip(total, times)]
            (c, h, w), out, kernel, stride, groups = key
            kind = " depthwise" if groups > 1 else ""
            layer = f"{len(layers):>2} x {c}x{h}x{w} -> {out}, {kernel}x{kernel}/{stride}{kind}"
            print(f"{layer:<48} {times_text(times)}")
        print(f"{'all of them':<48} {times_text(total)}")


def times_text(times) -> str:
    floats, whole, chained, quantise = times
    integers = f"integers {whole:6.2f} ({floats / whole:.2f}x), to bytes {chained:6.2f} ({floats / chained:.2f}x)"
    return f"floats {floats:6.2f} ms, {integers}, quantising {quantise:5.2f}"


def one_shape(key: tuple, layer, rounds: int) -> list[float]:
    x = torch.randn(1, *key[0]).contiguous(memory_format=torch.channels_last)
    top, options = (127 if layer.groups > 1 else 1), Geometry(layer.stride, layer.padding, layer.dilation, layer.groups)
    codes, ones = (
        torch.randint(-top, top + 1, layer.weight.shape).to(torch.int8),
        torch.full((layer.out_channels,), 0.01),
    )
    fused, silu, scale = FusedConv2d.of(layer, torch.nn.SiLU()), True, 0.02
    layer._forward_hooks.clear()
    whole, chained = (
        OneDnn(codes, ones, layer.bias, options, silu),
        OneDnn(codes, ones, layer.bias, options, silu, 0.02),
    )
    data = byte_codes(x, scale)
    found = interleave(
        {
            "a": lambda: fused(x),
            "b": lambda: whole(data),
            "c": lambda: chained(data),
            "d": lambda: byte_codes(x, scale),
        },
        rounds=2 * rounds,
        warmup=3,
    )
    return [timing.median for timing in found.values()]


def profile(scale: str, imgsz: int, rounds: int) -> None:
    model, x = start(scale, imgsz)
    made, x = ternary(model, "all"), x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for _ in range(3):
            made(x)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            for _ in range(rounds):
                with torch.profiler.record_function("between operators"):
                    made(x)
    rows = sorted(seen.key_averages(), key=lambda row: -row.self_cpu_time_total)
    whole = sum(row.self_cpu_time_total for row in rows)
    for row in rows[:14]:
        own = row.self_cpu_time_total
        print(f"{row.key:<54} {own / rounds / 1e3:6.2f} ms {own / whole:6.1%} {row.count // rounds:4} calls")


def step(scale: str, rounds: int, imgsz: int = 320, batch: int = 16) -> None:
    """A training step of the float model, of bit=head and of bit=all: forward, loss, backward."""
    torch.manual_seed(0)
    model = build("yolov12.yaml", scale).train().to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, imgsz, imgsz).contiguous(memory_format=torch.channels_last)
    boxes = torch.tensor([[40.0, 40, 120, 120]]).repeat(batch, 1)
    labels = Instances(boxes, torch.zeros(batch, dtype=torch.long), image=torch.arange(batch))

    def run(made):
        def once():
            raw = made(images)
            losses = detection_loss(raw, labels, sizes=raw.sizes, strides=made.strides)
            (sum(losses.values()) * batch).backward()
            made.zero_grad()

        return once

    models = {"float": model}
    for bit in ("head", "all"):
        models[f"bit={bit}"] = copy.deepcopy(model)
        bitify(models[f"bit={bit}"], bit)
    found = interleave({name: run(made) for name, made in models.items()}, rounds=rounds, warmup=1)
    for name, timing in found.items():
        print(f"step {name:<10} {timing}  {1 / timing.faster_than(found['float']):.2f} times a float step")


def load(scale: str, rounds: int) -> None:
    model = build("yolov12.yaml", scale).eval()
    bitify(model, "all")
    calibrate(model, [torch.rand(2, 3, 128, 128)], norms=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.pt")
        pack(model, path)
        taken = []
        for _ in range(rounds):
            start = time.perf_counter()
            made = open_checkpoint(path)
            middle = time.perf_counter()
            made.model()
            taken.append((middle - start, time.perf_counter() - middle))
        reading, building = (sorted(times)[rounds // 2] * 1e3 for times in zip(*taken))
        size = path.stat().st_size / 1e6
        print(f"{size:.3f} MB: reading and unpacking {reading:.0f} ms, building the model {building:.0f} ms")


def main(words: list[str]) -> None:
    options = dict(word.split("=", 1) for word in words if "=" in word)
    what = next((word for word in words if "=" not in word), "speed")
    scale, imgsz, rounds = options.get("scale", "n"), int(options.get("imgsz", 640)), int(options.get("rounds", 9))
    if what == "isa":
        for isa in ISAS:
            limits = {
                "ONEDNN_MAX_CPU_ISA": isa,
                **({"ATEN_CPU_CAPABILITY": CAPABILITY[isa]} if isa in CAPABILITY else {}),
            }
            print(f"--- {isa}", flush=True)
            subprocess.run(
                [sys.executable, __file__, "speed", *(f"{k}={v}" for k, v in options.items())],
                env={**os.environ, **limits},
                check=True,
            )
        return
    with threads(int(options.get("threads", 2))):
        print(f"{machine_line(machine())}; {describe()}")
        {
            "speed": lambda: speed(scale, imgsz, rounds),
            "shapes": lambda: shapes(scale, imgsz, rounds),
            "profile": lambda: profile(scale, imgsz, rounds),
            "step": lambda: step(scale, rounds),
            "load": lambda: load(scale, rounds),
        }[what]()


if __name__ == "__main__":
    main(sys.argv[1:])
