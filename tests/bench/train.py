"""Where the time of training goes: images/s and the share of each part of a step, for scale n. By hand, not a test:

    python tests/bench/train.py [imgsz=320] [batch=16] [device=cpu] [steps=20] [data=shapes.yaml] [workers=0]
    [compile=1]

Without data= the images are made up and held in memory, so that neither disk nor decoder count. Parts are timed with
the device brought to rest around each; images/s are those of an untouched pass, in which the parts overlap. On a GPU
the same batches are also run through the bare forward and backward: the difference is what everything else costs.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data.augmentation.augment import Batch, recipe_of
from bitfalcon_plugin.data.dataset import Sample, scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.data.loading import loader as loading
from bitfalcon_plugin.data.loading.bad_images import Item
from bitfalcon_plugin.data.loading.loader import Reading, TrainLoader
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.inference.compiling import compile_network
from bitfalcon_plugin.models.inference.precision import training_precision
from bitfalcon_plugin.ops.boxes import xyxy_from_xywh
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks import DETECT
from bitfalcon_plugin.train.loop import CLIP
from bitfalcon_plugin.train.optim import Ema, choose_optimizer, parameter_groups

PARTS = ("loader", "augmentation", "forward", "loss", "backward", "optimizer", "EMA")


class Clock:
    """Count the seconds of each part, and wait for the device at both ends; without `parts` nothing is waited for."""

    def __init__(self, device: torch.device, parts: bool) -> None:
        self.device, self.parts, self.spent = device, parts, defaultdict(float)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextlib.contextmanager
    def of(self, part: str) -> Iterator[None]:
        if not self.parts:
            yield
            return
        self.synchronize()
        start = time.perf_counter()
        yield
        self.synchronize()
        self.spent[part] += time.perf_counter() - start


class Training:
    """Model, optimizer, scaler and EMA of a run with default settings."""

    def __init__(self, imgsz: int, batch: int, device: torch.device, compile: bool, nc: int, scale: str = "n") -> None:
        self.settings = load_settings({"imgsz": imgsz, "batch": batch, "compile": compile})
        self.device, self.precision = device, training_precision(self.settings, device)
        self.model: Detector = build("yolov12.yaml", scale, nc=nc).to(device, memory_format=torch.channels_last).train()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(".dfl." not in name)
        self.network = compile_network(self.model, self.settings.compile, in_place=False)
        self.optimizer, _ = choose_optimizer(
            "SGD", parameter_groups(self.model, 5e-4), lr=1e-4, momentum=0.9, warmup_bias_lr=0.0, iterations=1, nc=nc
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision is torch.float16)
        self.ema = Ema(self.model)

    def step(self, batch: Batch, clock: Clock) -> None:
        """Run forward, loss, backward and an optimizer step on one batch."""
        with clock.of("forward"), torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            raw = self.network(batch.images.contiguous(memory_format=torch.channels_last))
        with clock.of("loss"):
            losses = DETECT.loss(
                raw, batch.labels, sizes=raw.sizes, strides=self.model.strides, gains=DETECT.gains(self.settings)
            )
            total = sum(losses.values()) * len(batch.images)
        with clock.of("backward"):
            self.scaler.scale(total).backward()
        with clock.of("optimizer"):
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
        with clock.of("EMA"):
            self.ema.update(self.model)

    def bare(self, batch: Batch) -> None:
        """Run forward and backward of the network alone, from a loss that costs nothing."""
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            raw = self.network(batch.images.contiguous(memory_format=torch.channels_last))
        (raw["boxes"].float().mean() + raw["scores"].float().mean()).backward()
        self.optimizer.zero_grad()


def tiles_in_memory(
    imgsz: int, count: int, device: torch.device
) -> tuple[torch.Tensor, list[tuple[int, int]], list[Item]]:
    """Return pixels, sizes and items of a batch, as the loader's reader of files sends them."""
    size = (imgsz * 3 // 4, imgsz)
    pixels = torch.randint(0, 256, (count * 3 * size[0] * size[1],), dtype=torch.uint8)
    items = [Item(index, True, []) for index in range(count)]
    return pixels.pin_memory() if device.type == "cuda" else pixels, [size] * count, items


class InMemory(list):
    """Batches in memory, in the place of a DataLoader."""

    num_workers = 0


def read_from_memory(loader: TrainLoader) -> None:
    """Let a loader of random samples read one batch again and again, and no file."""
    tiles = tiles_in_memory(loader.imgsz, loader.batch, loader.device)
    loader._loader = InMemory([tiles] * len(loader))


def random_samples(imgsz: int, count: int, boxes: int = 8) -> list[Sample]:
    """Return samples whose files are never opened, with boxes of all sizes."""
    generator = np.random.default_rng(0)
    samples = []
    for index in range(count):
        size = generator.uniform(0.04, 0.5, (boxes, 2))
        rows = np.concatenate([generator.uniform(size / 2, 1 - size / 2), size], axis=1)
        classes = torch.from_numpy(generator.integers(0, 4, boxes))
        labels = Instances(xyxy_from_xywh(torch.from_numpy(rows).float()), classes)
        samples.append(Sample(Path(f"{index}.jpg"), (imgsz * 3 // 4, imgsz), labels))
    return samples


def passes(loader: TrainLoader, training: Training, steps: int, clock: Clock) -> Iterator[Batch]:
    """Yield `steps` batches, over several epochs where needed; `augment` is timed apart from the loader."""
    recipe, plain, done, epoch = recipe_of(training.settings, closed=False), loading.augment, 0, 0

    def timed(*args, **kwargs):
        with clock.of("augmentation"):
            return plain(*args, **kwargs)

    loading.augment = timed
    try:
        while done < steps:
            batches = loader.epoch(epoch, recipe)
            for _ in range(min(len(loader), steps - done)):
                before = clock.spent["augmentation"]
                with clock.of("loader"):
                    batch = next(batches)[0]
                clock.spent["loader"] -= clock.spent["augmentation"] - before
                done += 1
                yield batch
            epoch += 1
    finally:
        loading.augment = plain


def measure(loader: TrainLoader, training: Training, steps: int, parts: bool) -> tuple[float, dict[str, float]]:
    """Return images a second and, with `parts`, the seconds of each part."""
    clock, images = Clock(training.device, parts), 0
    clock.synchronize()
    start = time.perf_counter()
    for batch in passes(loader, training, steps, clock):
        training.step(batch, clock)
        images += len(batch.images)
    clock.synchronize()
    return images / (time.perf_counter() - start), clock.spent


def bare(training: Training, batch: Batch, steps: int) -> float:
    """Return images a second of the network alone."""
    clock = Clock(training.device, False)
    for turn in range(steps + 3):
        if turn == 3:
            clock.synchronize()
            start = time.perf_counter()
        training.bare(batch)
    clock.synchronize()
    return steps * len(batch.images) / (time.perf_counter() - start)


def main(
    imgsz: int = 320,
    batch: int = 16,
    device: str = "",
    steps: int = 20,
    data: str = "",
    workers: int = 0,
    compile: int = 0,
) -> None:
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    spec = load_data(data) if data else None
    samples = list(scan(spec, "train").samples) if spec else random_samples(imgsz, 8 * batch)
    training = Training(imgsz, batch, target, bool(compile), spec.nc if spec else 4)
    loader = TrainLoader(samples, Reading(target, workers), imgsz=imgsz, batch=batch, seed=0)
    if spec is None:
        read_from_memory(loader)
    print(
        f"yolov12 n, imgsz {imgsz}, batch {batch}, {target}, {torch.get_num_threads()} threads, "
        f"{training.precision or torch.float32}, {data or 'images in memory'}, "
        f"{workers} workers{', compiled' if compile else ''}"
    )
    measure(loader, training, 3, parts=False)  # kernels are chosen, buffers made
    speed, _ = measure(loader, training, steps, parts=False)
    _, spent = measure(loader, training, steps, parts=True)
    whole = sum(spent.values())
    print(
        f"{speed:.1f} images/s; a step of {whole / steps * 1000:.1f} ms, part by part: "
        + ", ".join(f"{part} {spent[part] / whole:.1%}" for part in PARTS)
    )
    alone = bare(training, next(passes(loader, training, 1, Clock(target, False))), steps)
    print(f"bare forward and backward: {alone:.1f} images/s; training reaches {speed / alone:.1%} of it")


if __name__ == "__main__":
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    main(**{key: int(value) if value.isdigit() else value for key, value in words.items()})
