"""Datasets and loaders as trainers build them. Facts: spec/dropin-helpers.md section 8.

A script may put a class of its own in the place of `YOLODataset` here: it is looked up when a dataset is built.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ...data.loading.workers import begin_reader, start_readers
from ..utils import RANK, colorstr
from .dataset import YOLODataset
from .loaders import (
    LOADERS,
    LoadImagesAndVideos,
    LoadPilAndNumpy,
    LoadScreenshots,
    LoadStreams,
    LoadTensor,
    SourceTypes,
    autocast_list,
)
from .utils import VID_FORMATS

__all__ = [
    "InfiniteDataLoader",
    "YOLODataset",
    "build_dataloader",
    "build_yolo_dataset",
    "check_source",
    "load_inference_source",
    "seed_worker",
]

LIVE = ("https://", "http://", "rtsp://", "rtmp://", "tcp://")


def build_yolo_dataset(
    cfg: Any,
    img_path: str,
    batch: int | None,
    data: dict[str, Any],
    mode: str = "train",
    rect: bool = False,
    stride: int = 32,
    multi_modal: bool = False,
) -> Any:
    """Return the dataset of the images at a path.

    cfg: the settings, as attributes. mode "train" augments. rect: batches of images of one shape.
    """
    if multi_modal:
        raise NotImplementedError("datasets with texts for open vocabularies are not in bitfalcon")
    training = mode == "train"
    return YOLODataset(
        img_path=img_path,
        imgsz=cfg.imgsz,
        batch_size=batch or 16,
        augment=training,
        hyp=cfg,
        rect=cfg.rect or rect,
        cache=cfg.cache or False,
        single_cls=cfg.single_cls or False,
        stride=int(stride),
        pad=0.0 if training else 0.5,
        prefix=colorstr(f"{mode}: "),
        task=cfg.task,
        classes=[cfg.classes] if isinstance(cfg.classes, int) else cfg.classes,
        data=data,
        fraction=cfg.fraction if training else 1.0,
    )


class InfiniteDataLoader(DataLoader):
    """A DataLoader whose worker processes go on from epoch to epoch. `reset` starts new ones."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("num_workers"):
            kwargs.setdefault("persistent_workers", True)
            kwargs["worker_init_fn"] = partial(_begin_worker, kwargs.get("worker_init_fn"))
        super().__init__(*args, **kwargs)

    def __iter__(self) -> Iterator[Any]:
        return start_readers(super().__iter__)

    def reset(self) -> None:
        """End the worker processes, so that the next epoch sees what has changed in the dataset."""
        self._iterator = None


def _begin_worker(own: Callable[[int], None] | None, worker_id: int) -> None:
    begin_reader(worker_id)
    if own is not None:
        own(worker_id)


def seed_worker(worker_id: int) -> None:
    """Seed Python's and NumPy's generators of a loader process from torch's seed of it."""
    seed = torch.initial_seed() % 2**32
    np.random.seed(seed)
    random.seed(seed)


def build_dataloader(
    dataset: Dataset,
    batch: int,
    workers: int,
    shuffle: bool = True,
    rank: int = -1,
    drop_last: bool = False,
    pin_memory: bool = True,
    **kwargs: Any,
) -> InfiniteDataLoader:
    """Return a loader of batches of a dataset, at most as large as the dataset.

    rank: of this process among several that train together; -1 for one alone.
    """
    batch = min(batch, len(dataset))  # type: ignore[arg-type]
    workers = min(workers, os.cpu_count() or 1)
    sampler = None if rank == -1 else DistributedSampler(dataset, shuffle=shuffle)
    generator = torch.Generator()
    generator.manual_seed(6148914691236517205 + RANK)
    return InfiniteDataLoader(
        dataset=dataset,
        batch_size=batch,
        shuffle=shuffle and sampler is None,
        num_workers=workers,
        sampler=sampler,
        drop_last=drop_last,
        pin_memory=pin_memory and torch.cuda.is_available(),
        collate_fn=getattr(dataset, "collate_fn", None),
        worker_init_fn=seed_worker,
        generator=generator,
    )


def check_source(source: Any) -> tuple[Any, bool, bool, bool, bool, bool]:
    """Return a source, and whether it is a webcam or stream, a screenshot, images in memory, a loader, a tensor."""
    webcam = screenshot = from_img = in_memory = tensor = False
    if isinstance(source, (str, int, Path)):
        source = str(source)
        is_video = Path(source.partition("?")[0]).suffix[1:].lower() in VID_FORMATS
        is_address = source.lower().startswith(LIVE)
        webcam = source.isnumeric() or source.endswith(".streams") or is_address and not is_video
        screenshot = source.lower() == "screen"
    elif isinstance(source, LOADERS):
        in_memory = True
    elif isinstance(source, (list, tuple)):
        source, from_img = autocast_list(source), True
    elif isinstance(source, (Image.Image, np.ndarray)):
        from_img = True
    elif isinstance(source, torch.Tensor):
        tensor = True
    else:
        raise TypeError(f"source is a {type(source).__name__}; expected a path, an image, an array, a tensor or a list")
    return source, webcam, screenshot, from_img, in_memory, tensor


def load_inference_source(
    source: Any = None, batch: int = 1, vid_stride: int = 1, buffer: bool = False, channels: int = 3
) -> Any:
    """Return a loader that yields (paths, images, texts) of a source. It has mode, bs and source_type."""
    source, stream, screenshot, from_img, in_memory, tensor = check_source(source)
    if in_memory:
        return source
    if tensor:
        loader: Any = LoadTensor(source)
    elif stream:
        loader = LoadStreams(source, vid_stride=vid_stride, buffer=buffer)
    elif screenshot:
        loader = LoadScreenshots(source)
    elif from_img:
        loader = LoadPilAndNumpy(source)
    else:
        loader = LoadImagesAndVideos(source, batch=batch, vid_stride=vid_stride)
    loader.source_type = SourceTypes(stream, screenshot, from_img, tensor)
    return loader
