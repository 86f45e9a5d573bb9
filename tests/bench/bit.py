"""What ternary layers cost and save on this machine.

    python tests/bench/bit.py [speed|shapes|profile|isa|step|load] [scale=n] [imgsz=640] [rounds=9] [threads=2]

speed: milliseconds of one image, in turns in one process, against the plain float model in NCHW and channels last,
whole and head alone, with static and dynamic scales; `default` and the ternary models as predict runs them. shapes:
each convolution by itself, fused in floats and in integers. profile: where the time of bit=all goes. isa: speed under
emulated older processors. step: a training step at 320 px, batch 16. load: a packed file. Weights are random, batch
norms are measured on noise, so that activations have the size of a trained model's.
"""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from bitfalcon_plugin.benchmark.timing import Timing, interleave, machine, machine_line
from bitfalcon_plugin.bit import bitify, calibrate, freeze, pack
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.inference.fused_conv import FusedConv2d
from bitfalcon_plugin.models.inference.prepare import prepare_for_inference
from bitfalcon_plugin.models.inference.threads import threads
from bitfalcon_plugin.models.modules.bit_kernels import Geometry, OneDnn, byte_codes, describe
from bitfalcon_plugin.models.weights.foreign import open_checkpoint
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks.detect import detection_loss

ISAS = ("AVX2", "AVX2_VNNI", "AVX512_CORE", "DEFAULT")
CAPABILITY = {"AVX2": "avx2", "AVX2_VNNI": "avx2"}


def ternary(model: Detector, bit: str, **options: str) -> Detector:
    """Return a copy of a model, ternary, calibrated on noise and ready for inference."""
    copied = copy.deepcopy(model)
    bitify(copied, bit, **options)
    calibrate(copied, [torch.rand(4, 3, 128, 128)])
    return prepare_for_inference(freeze(copied), torch.device("cpu"))


def model_and_image(scale: str, imgsz: int) -> tuple[Detector, Tensor]:
    torch.manual_seed(0)
    return build("yolov12.yaml", scale).eval().requires_grad_(False), torch.rand(1, 3, imgsz, imgsz)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def speed(scale: str, imgsz: int, rounds: int) -> None:
    model, x = model_and_image(scale, imgsz)
    last = channels_last(x)
    plain, best = copy.deepcopy(model).fuse(), copy.deepcopy(model).fuse().to(memory_format=torch.channels_last)
    models = {f"bit={bit}": ternary(model, bit) for bit in ("all", "head", "neck", "backbone")}
    models["bit=all, dynamic"] = ternary(model, "all", act="dynamic")
    usual = prepare_for_inference(model, torch.device("cpu"))
    runs = {"float NCHW": lambda: plain(x), "float channels last": lambda: best(last)}
    runs["float default"] = lambda: usual(last)
    if torch.backends.cpu.get_cpu_capability() == "AVX512" and "ONEDNN_MAX_CPU_ISA" not in os.environ:
        half, x16 = copy.deepcopy(best).to(torch.bfloat16), last.to(torch.bfloat16)
        runs["bfloat16 channels last"] = lambda: half(x16)
    runs |= {name: partial(network, last) for name, network in models.items()}
    with torch.inference_mode():
        show(interleave(runs, rounds=rounds, warmup=3), "float NCHW", "float channels last")
        channels = [branch[0].conv.in_channels for branch in model.head.cv2]
        maps = [torch.rand(1, c, int(imgsz // s), int(imgsz // s)) for c, s in zip(channels, model.strides)]
        lasts = [channels_last(m) for m in maps]
        heads = {
            "head, float NCHW": lambda: plain.head(maps),
            "head, float channels last": lambda: best.head(lasts),
            "head, float default": lambda: usual.head(lasts),
            "head, bit": lambda: models["bit=head"].head(lasts),
        }
        show(interleave(heads, rounds=3 * rounds, warmup=3), "head, float NCHW", "head, float channels last")


def show(timings: Mapping[str, Timing], *bases: str) -> None:
    for name, timing in timings.items():
        ratios = ", ".join(f"{timing.faster_than(timings[base]):.2f}x of {base}" for base in bases)
        print(f"{name:<28} {timing}  {ratios}", flush=True)


@dataclass(frozen=True)
class Shape:
    """What tells convolutions apart. size: (C, H, W) of the input."""

    size: tuple[int, ...]
    out: int
    kernel: int
    stride: int
    groups: int

    def __str__(self) -> str:
        depthwise = " depthwise" if self.groups > 1 else ""
        return f"{'x'.join(map(str, self.size))} -> {self.out}, {self.kernel}x{self.kernel}/{self.stride}{depthwise}"


def shapes(scale: str, imgsz: int, rounds: int) -> None:
    """Print the times of each convolution with SiLU by itself, the largest first, and their sum."""
    model, x = model_and_image(scale, imgsz)
    model.fuse().to(memory_format=torch.channels_last)
    layers: dict[Shape, list[nn.Conv2d]] = {}

    def record(layer: nn.Conv2d, inputs: tuple[Tensor], _) -> None:
        options = layer.out_channels, layer.kernel_size[0], layer.stride[0], layer.groups
        layers.setdefault(Shape(tuple(inputs[0].shape[1:]), *options), []).append(layer)

    convolutions = [layer for layer in model.modules() if type(layer) is nn.Conv2d and layer is not model.head.dfl.conv]
    hooks = [layer.register_forward_hook(record) for layer in convolutions]
    with torch.inference_mode():
        model(channels_last(x))
        for hook in hooks:
            hook.remove()
        totals = [0.0] * 4
        for shape in sorted(layers, key=lambda shape: -len(layers[shape]) * math.prod(shape.size) * shape.out):
            count, times = len(layers[shape]), time_layer(layers[shape][0], shape, rounds)
            totals = [total + count * time for total, time in zip(totals, times)]
            print(f"{count:>2} x {shape}".ljust(48), times_line(times))
        print("all of them".ljust(48), times_line(totals))


def time_layer(layer: nn.Conv2d, shape: Shape, rounds: int) -> list[float]:
    """Return milliseconds: in floats as `default` runs it, in integers to floats and to bytes, and of quantising."""
    x, scale = channels_last(torch.randn(1, *shape.size)), 0.02
    largest, geometry = (
        127 if layer.groups > 1 else 1,
        Geometry(layer.stride, layer.padding, layer.dilation, layer.groups),
    )
    codes = torch.randint(-largest, largest + 1, layer.weight.shape).to(torch.int8)
    factor = torch.full((layer.out_channels,), 0.01)
    floats = FusedConv2d.of(layer, nn.SiLU())
    to_floats = OneDnn(codes, factor, layer.bias, geometry, silu=True)
    to_bytes = OneDnn(codes, factor, layer.bias, geometry, silu=True, output_scale=scale)
    data = byte_codes(x, scale)
    runs = {"floats": partial(floats, x), "to floats": partial(to_floats, data), "to bytes": partial(to_bytes, data)}
    runs["quantise"] = partial(byte_codes, x, scale)
    return [timing.median for timing in interleave(runs, rounds=2 * rounds, warmup=3).values()]


def times_line(times: Sequence[float]) -> str:
    floats, to_floats, to_bytes, quantise = times
    return (
        f"floats {floats:6.2f} ms, integers {to_floats:6.2f} ({floats / to_floats:.2f}x), "
        f"to bytes {to_bytes:6.2f} ({floats / to_bytes:.2f}x), quantising {quantise:5.2f}"
    )


def profile(scale: str, imgsz: int, rounds: int) -> None:
    model, x = model_and_image(scale, imgsz)
    network, x = ternary(model, "all"), channels_last(x)
    with torch.inference_mode():
        for _ in range(3):
            network(x)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(rounds):
                with torch.profiler.record_function("between operators"):
                    network(x)
    operators = sorted(profiler.key_averages(), key=lambda operator: -operator.self_cpu_time_total)
    total = sum(operator.self_cpu_time_total for operator in operators)
    for operator in operators[:14]:
        time, calls = operator.self_cpu_time_total, operator.count // rounds
        print(f"{operator.key:<54} {time / rounds / 1e3:6.2f} ms {time / total:6.1%} {calls:4} calls")


def step(scale: str, rounds: int, imgsz: int = 320, batch: int = 16) -> None:
    """A training step of the float model, of bit=head and of bit=all: forward, loss, backward."""
    torch.manual_seed(0)
    model = build("yolov12.yaml", scale).train().to(memory_format=torch.channels_last)
    images = channels_last(torch.rand(batch, 3, imgsz, imgsz))
    boxes = torch.tensor([[40.0, 40, 120, 120]]).repeat(batch, 1)
    labels = Instances(boxes, torch.zeros(batch, dtype=torch.long), image=torch.arange(batch))

    def train(network: Detector) -> None:
        raw = network(images)
        sum(detection_loss(raw, labels, sizes=raw.sizes, strides=network.strides).values()).backward()
        network.zero_grad()

    models = {"float": model}
    for bit in ("head", "all"):
        models[f"bit={bit}"] = copy.deepcopy(model)
        bitify(models[f"bit={bit}"], bit)
    timings = interleave({name: partial(train, network) for name, network in models.items()}, rounds=rounds, warmup=1)
    for name, timing in timings.items():
        print(f"step {name:<10} {timing}  {1 / timing.faster_than(timings['float']):.2f} times a float step")


def load(scale: str, rounds: int) -> None:
    """Print the size of a packed file, and the medians of reading it and of building its model."""
    model = build("yolov12.yaml", scale).eval()
    bitify(model, "all")
    calibrate(model, [torch.rand(2, 3, 128, 128)], norms=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.pt")
        pack(model, path)
        reading, building = [], []
        for _ in range(rounds):
            start = time.perf_counter()
            checkpoint = open_checkpoint(path)
            reading.append(1e3 * (time.perf_counter() - start))
            start = time.perf_counter()
            checkpoint.model()
            building.append(1e3 * (time.perf_counter() - start))
        times = f"reading and unpacking {median(reading):.0f} ms, building the model {median(building):.0f} ms"
        print(f"{path.stat().st_size / 1e6:.3f} MB: {times}")


def isa(options: Mapping[str, str]) -> None:
    """Run `speed` in processes whose instruction set is limited."""
    arguments = ["speed", *(f"{key}={value}" for key, value in options.items())]
    for name in ISAS:
        limits = {"ONEDNN_MAX_CPU_ISA": name}
        if name in CAPABILITY:
            limits["ATEN_CPU_CAPABILITY"] = CAPABILITY[name]
        print(f"--- {name}", flush=True)
        subprocess.run([sys.executable, __file__, *arguments], env={**os.environ, **limits}, check=True)


def main(arguments: list[str]) -> None:
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    verb = next((argument for argument in arguments if "=" not in argument), "speed")
    if verb == "isa":
        isa(options)
        return
    scale, imgsz, rounds = options.get("scale", "n"), int(options.get("imgsz", 640)), int(options.get("rounds", 9))
    verbs = {
        "speed": lambda: speed(scale, imgsz, rounds),
        "shapes": lambda: shapes(scale, imgsz, rounds),
        "profile": lambda: profile(scale, imgsz, rounds),
        "step": lambda: step(scale, rounds),
        "load": lambda: load(scale, rounds),
    }
    with threads(int(options.get("threads", 2))):
        print(f"{machine_line(machine())}; {describe()}")
        verbs[verb]()


if __name__ == "__main__":
    main(sys.argv[1:])
