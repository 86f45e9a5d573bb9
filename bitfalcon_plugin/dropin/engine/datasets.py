"""Datasets as scripts have them, a dict and loaders of dicts, and our DataSpec and samples."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ...config.errors import UserError, raise_problems
from ...data.augmentation.augment import Recipe
from ...data.dataset import Sample, Scan
from ...data.formats.dataset_yaml import SPLITS, DataSpec
from ...data.loading.bad_images import BadImages
from ...data.loading.loader import TrainLoader
from ...ops.boxes import xywh_from_xyxy, xyxy_from_xywh
from ...ops.instances import Instances
from ...ops.keypoint_layout import read_layout
from ...tasks import Task
from .batches import ScriptBatch, dict_of


def dict_of_data(spec: DataSpec) -> dict[str, object]:
    """Return a dataset as scripts read it: path, train, val, test, names, nc, yaml_file, channels.

    A dataset with keypoints also has kpt_shape, and of flip_idx, kpt_names, kpt_oks_sigmas and skeleton what it states.
    """
    splits = {name: list(entries) if len(entries) != 1 else entries[0] for name, entries in spec.splits.items()}
    head = {"path": spec.root, **{name: splits.get(name) for name in SPLITS}}
    layout = spec.keypoints.as_keys() if spec.keypoints else {}
    return {**head, "names": dict(spec.names), "nc": spec.nc, "yaml_file": str(spec.path), "channels": 3, **layout}


def data_of_dict(data: Mapping[str, object]) -> DataSpec:
    """Return what a script's get_dataset gave as a DataSpec. Raises UserError where it has no names."""
    names = data.get("names")
    if not isinstance(names, (Mapping, list, tuple)) or not names:
        raise UserError(f"get_dataset: names={names!r}; expected the names of the classes, a list or a dict.")
    names = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
    root = Path(os.path.abspath(str(data.get("path") or ".")))
    splits = {}
    for name in SPLITS:
        entries = data.get(name)
        listed = entries if isinstance(entries, (list, tuple)) else [entries]
        splits[name] = tuple(str(root / str(entry)) for entry in listed if entry)
    path = Path(str(data.get("yaml_file") or root / "data.yaml"))
    texts = {int(index): str(name) for index, name in names.items()}
    problems: list[str] = []
    layout = read_layout(data, len(texts), problems)
    raise_problems("get_dataset gave what cannot be used:", problems)
    splits = {name: entries for name, entries in splits.items() if entries}
    return DataSpec(path, root, texts, splits, keypoints=layout, allow_outside=True)


def scan_of(loader: object) -> Scan:
    """Return what a script's loader reads as a Scan: labels where its dataset has `labels`, otherwise only a number."""
    if not hasattr(loader, "__len__"):
        raise UserError(f"get_dataloader gave a {type(loader).__name__} without a length; len() must be its batches.")
    dataset = getattr(loader, "dataset", None)
    labels = getattr(dataset, "labels", None)
    count = len(dataset) if hasattr(dataset, "__len__") else len(loader) * (getattr(loader, "batch_size", None) or 1)
    if (
        not isinstance(labels, Sequence)
        or len(labels) != count
        or not all(isinstance(each, Mapping) for each in labels)
    ):
        labels = [{}] * count
    samples = tuple(_sample(label, number) for number, label in enumerate(labels))
    labelled = sum(len(sample.labels) > 0 for sample in samples)
    return Scan(samples, labelled, len(samples) - labelled, 0, 0, ())


def _sample(label: Mapping, number: int) -> Sample:
    boxes = torch.as_tensor(np.asarray(label.get("bboxes", ()), dtype=np.float32)).reshape(-1, 4)
    classes = torch.as_tensor(np.asarray(label.get("cls", ()), dtype=np.float32)).flatten().long()
    if len(boxes) != len(classes):
        boxes, classes = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    path = Path(str(label.get("im_file", f"image{number}")))
    return Sample(path, tuple(label.get("shape", (1, 1))), Instances(xyxy_from_xywh(boxes), classes))


class LoaderOfScript:
    """A script's loader of dicts with the methods of our TrainLoader; the dicts come as they are."""

    note = ""

    def __init__(self, loader: object, hyp: object) -> None:
        self.loader, self.hyp, self._closed = loader, hyp, False
        self.bad = BadImages("training", [], "skip")  # the script's loader reads, and has none

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, recipe: Recipe, start: int = 0) -> Iterator[tuple[ScriptBatch, list[int]]]:
        """Yield the batches of an epoch, from number `start`. Mosaic is closed where the recipe has none any more."""
        sampler, dataset = getattr(self.loader, "sampler", None), getattr(self.loader, "dataset", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        if not recipe.mosaic and self.hyp.mosaic and not self._closed:
            self._closed = True
            if hasattr(dataset, "close_mosaic"):
                dataset.close_mosaic(hyp=self.hyp)
            if hasattr(self.loader, "reset"):
                self.loader.reset()
        for number, values in enumerate(self.loader):
            if number >= start:
                images = values.get("img") if isinstance(values, Mapping) else None
                yield ScriptBatch(images, Instances.empty(), values), []


class LoaderForScript:
    """Our loader of training batches, as scripts look at it: dicts, `len`, `dataset`, `batch_size`."""

    def __init__(self, loader: TrainLoader, recipe: Recipe, task: Task) -> None:
        self._loader, self._recipe, self._task = loader, recipe, task
        self.dataset, self.batch_size = ImagesForScript(loader.samples), loader.batch

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, object]]:
        layout = self.dataset.samples[0].layout
        for batch, indices in self._loader.epoch(0, self._recipe):
            yield dict_of(batch, [self.dataset.im_files[index] for index in indices], self._task, layout)

    def reset(self) -> None:
        """Do nothing: the workers of our loader read what the next epoch asks for."""


class ImagesForScript:
    """Our samples, as scripts look at them: `len`, `im_files`, `labels`, `ni`."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples, self.ni = samples, len(samples)
        self.im_files = [str(sample.image) for sample in samples]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> list[dict[str, object]]:
        """For each image: im_file, shape, cls (n, 1), bboxes (n, 4) xywh in shares of the image."""
        return [_label(sample) for sample in self.samples]


def _label(sample: Sample) -> dict[str, object]:
    boxes = xywh_from_xyxy(sample.labels.boxes).numpy()
    classes = sample.labels.classes.numpy().astype(np.float32)[:, None]
    head = {"im_file": str(sample.image), "shape": sample.size, "cls": classes, "bboxes": boxes}
    points = sample.labels.keypoints
    points = None if points is None else points.numpy()
    return {**head, "segments": [], "keypoints": points, "normalized": True, "bbox_format": "xywh"}
