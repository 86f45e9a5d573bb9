"""Throughput of the batches of class folders against a plain loop of Pillow and torchvision with the same transforms.

    python tests/bench/class_loader.py [imgsz=224] [batch=16] [workers=0] [data=FOLDER] [rounds=5]

data: class folders; without it 256 photographs of 500x375 are drawn. The two loops take turns, each an epoch a round;
the medians are compared. Both end with float32 batches in channels-last memory on the CPU, what a training step takes.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data.data_format import CLASS_FOLDERS
from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.data.loading.loader import Reading


class Plain(Dataset):
    """Images as a plain script reads them."""

    def __init__(self, samples: list[Sample], imgsz: int, train: bool) -> None:
        bilinear = transforms.InterpolationMode.BILINEAR
        flips = [transforms.RandomHorizontalFlip(), transforms.RandAugment(interpolation=bilinear)]
        steps = [transforms.RandomResizedCrop(imgsz, scale=(0.5, 1.0)), *flips]
        steps = steps if train else [transforms.Resize(imgsz), transforms.CenterCrop(imgsz)]
        last = [transforms.RandomErasing(0.4)] if train else []
        self.samples, self.steps = samples, transforms.Compose([*steps, transforms.ToTensor(), *last])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        sample = self.samples[index]
        return self.steps(Image.open(sample.image).convert("RGB")), int(sample.labels.classes)


def photographs(folder: Path) -> Path:
    random = np.random.RandomState(0)
    for split, count in (("train", 128), ("val", 2)):
        for name in "ab":
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                coarse = Image.fromarray(random.randint(0, 256, (24, 32, 3), dtype=np.uint8))
                pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)) + random.normal(
                    0, 8, (375, 500, 1)
                )
                picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                picture.save(folder / split / name / f"{number}.jpg", quality=90)
    return folder


def channels_last(images: torch.Tensor) -> torch.Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def loops(data: Path, imgsz: int, batch: int, workers: int) -> dict[str, Callable[[], Iterator[object]]]:
    """Name -> a function that goes through an epoch."""
    settings = load_settings({"imgsz": imgsz, "batch": batch})
    samples = CLASS_FOLDERS.scan(CLASS_FOLDERS.load(data, settings), "train", settings).samples
    recipe, sizes = CLASS_FOLDERS.recipe(settings, False), {"imgsz": imgsz, "batch": batch, "multiple": 32}
    plain = {
        train: DataLoader(
            Plain(samples, imgsz, train), batch, train, num_workers=workers, persistent_workers=workers > 0
        )
        for train in (True, False)
    }
    result: dict[str, Callable[[], Iterator[object]]] = {
        "train, plain": lambda: (channels_last(images) for images, _ in plain[True]),
        "val, plain": lambda: (channels_last(images) for images, _ in plain[False]),
    }
    for cache in (False, "ram"):
        reading, word = Reading("cpu", workers, cache), " cache=ram" if cache else ""
        train = CLASS_FOLDERS.train_loader(samples, reading, settings, 32)
        val = CLASS_FOLDERS.val_loader(samples, reading, settings, **sizes)
        result[f"train{word}"] = lambda train=train: (channels_last(each.images) for each, _ in train.epoch(0, recipe))
        result[f"val{word}"] = lambda val=val: (channels_last(images.float() / 255) for images, *_ in val)
    return result


def main(imgsz: int = 224, batch: int = 16, workers: int = 0, rounds: int = 5, data: str = "") -> None:
    with tempfile.TemporaryDirectory() as scratch:
        functions = loops(Path(data) if data else photographs(Path(scratch)), imgsz, batch, workers)
        seconds: dict[str, list[float]] = {name: [] for name in functions}
        for number in range(rounds + 1):
            for name, function in functions.items():
                start = time.perf_counter()
                images = sum(len(each) for each in function())
                if number:  # the first round starts workers and fills caches
                    seconds[name].append((time.perf_counter() - start) / images)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        for name, value in medians.items():
            faster = medians[f"{name.partition(' ')[0].rstrip(',')}, plain"] / value
            print(f"{name:<16} {1 / value:8.0f} images/s  {value * 1e3:6.2f} ms an image  {faster:5.2f} times plain")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(
        **{
            key: value if key == "data" else int(value)
            for key, _, value in (word.partition("=") for word in sys.argv[1:])
        }
    )
