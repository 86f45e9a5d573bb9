"""Batches as scripts have them, a dict of tensors, and our Batch: each made from the other (dropin-helpers.md 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...config.errors import UserError
from ...data.augmentation.augment import Batch
from ...ops.boxes import xywh_from_xyxy, xyxy_from_xywh
from ...ops.instances import Instances

NEEDED = ("img", "cls", "bboxes", "batch_idx")  # keys of a batch; without objects the first two


@dataclass(frozen=True)
class ScriptBatch(Batch):
    """A Batch, and the dict that it was made from."""

    values: dict = field(default_factory=dict)


def of_whole_images(values: Mapping[str, object]) -> dict[str, object]:
    """Return a batch with one label for each image as a batch of classes: without boxes, cls (B,) int64."""
    kept = {key: value for key, value in values.items() if key not in ("bboxes", "batch_idx")}
    return {**kept, "cls": values["cls"].flatten().long()}


def dict_of(batch: Batch, files: Sequence[str] = (), objects: bool = True) -> dict[str, object]:
    """Return a batch as a dict: img (B, 3, H, W) floats in [0, 1], and the labels of all images one behind the other.

    cls (N, 1) floats; bboxes (N, 4): xywh in shares of the image; batch_idx (N,) floats: the image of each label;
    im_file: the path of each image; ori_shape, resized_shape: (H, W) of each. objects: otherwise the labels are
    classes of whole images, cls (B,) int64 without boxes.
    """
    if isinstance(batch, ScriptBatch) and batch.values:
        return batch.values
    labels, (height, width) = batch.labels, batch.images.shape[2:]
    boxes = xywh_from_xyxy(labels.boxes)
    shapes = ((height, width),) * len(batch.images)
    values = {
        "img": batch.images,
        "cls": labels.classes.float()[:, None],
        "bboxes": boxes / boxes.new_tensor([width, height] * 2),
        "batch_idx": labels.image.float(),
        "im_file": tuple(files),
        "ori_shape": shapes,
        "resized_shape": shapes,
    }
    return values if objects else of_whole_images(values)


def with_bytes(values: Mapping[str, object]) -> dict[str, object]:
    """Return a dict whose img is uint8, as it comes from a loader, in the place of floats in [0, 1]."""
    return {**values, "img": (values["img"] * 255).round().to(torch.uint8)}


def to_device(values: Mapping[str, object], device: torch.device) -> dict[str, object]:
    """Return a dict whose tensors are on `device`, with img in [0, 1]."""
    moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in values.items()}
    if isinstance(moved.get("img"), Tensor) and not moved["img"].is_floating_point():
        moved["img"] = moved["img"].float() / 255
    return moved


def batch_of(values: Mapping[str, object], device: torch.device, objects: bool = True) -> ScriptBatch:
    """Return a dict as a Batch on `device`. objects: as for `dict_of`. Raises UserError where it lacks a key."""
    needed = NEEDED if objects else NEEDED[:2]
    if not isinstance(values, Mapping) or (missing := [key for key in needed if key not in values]):
        shown = f"without {', '.join(missing)}" if isinstance(values, Mapping) else f"that is a {type(values).__name__}"
        raise UserError(f"The loader gave a batch {shown}; expected a dict with {', '.join(needed)}.")
    values = to_device(values, device)
    height, width = values["img"].shape[2:]
    if not objects:
        classes = values["cls"].flatten().long()
        whole = values["img"].new_tensor([[0, 0, width, height]]).float().expand(len(classes), 4)
        image = torch.arange(len(classes), device=classes.device)
        return ScriptBatch(values["img"].float(), Instances(whole, classes, image=image), values)
    image = values["batch_idx"].flatten().long()
    order = image.argsort(stable=True)
    boxes = xyxy_from_xywh(values["bboxes"].float()) * values["img"].new_tensor([width, height] * 2).float()
    labels = Instances(boxes[order], values["cls"].flatten().long()[order], image=image[order])
    return ScriptBatch(values["img"].float(), labels, values)
