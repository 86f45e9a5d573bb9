"""Batches as scripts have them, a dict of tensors, and our Batch: each made from the other (dropin-helpers.md 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...config.errors import UserError
from ...data.augmentation.augment import Batch
from ...ops.boxes import xywh_from_xyxy, xyxy_from_xywh
from ...ops.instances import Instances
from ...ops.keypoint_layout import KeypointLayout
from ...ops.rotated import corners_of, hulls_of
from ...tasks import DETECT, Task

NEEDED = ("img", "cls", "bboxes", "batch_idx")  # keys of a batch; without objects the first two


@dataclass(frozen=True)
class ScriptBatch(Batch):
    """A Batch, and the dict that it was made from."""

    values: dict = field(default_factory=dict)


def of_whole_images(values: Mapping[str, object]) -> dict[str, object]:
    """Return a batch with one label for each image as a batch of classes: without boxes, cls (B,) int64."""
    kept = {key: value for key, value in values.items() if key not in ("bboxes", "batch_idx")}
    return {**kept, "cls": values["cls"].flatten().long()}


def dict_of(
    batch: Batch, files: Sequence[str] = (), task: Task = DETECT, keypoints: KeypointLayout | None = None
) -> dict[str, object]:
    """Return a batch as a dict: img (B, 3, H, W) floats in [0, 1], and the labels of all images one behind the other.

    cls (N, 1) floats; bboxes (N, 4): xywh in shares of the image; batch_idx (N,) floats: the image of each label;
    im_file: the path of each image; ori_shape, resized_shape: (H, W) of each. Of a task without objects the labels are
    classes of whole images, cls (B,) int64 without boxes. Of oriented boxes bboxes are (N, 5): sides in shares of the
    image's width and height whatever the angle, and the angle in radians. keypoints: of the model; the dict then has
    keypoints (N, K, 3), x and y in shares of the image and the visibility (spec/pose-obb.md 1.3 and 2.4).
    """
    if isinstance(batch, ScriptBatch) and batch.values:
        return batch.values
    labels, (height, width) = batch.labels, batch.images.shape[2:]
    boxes, shapes = boxes_of(labels, task), ((height, width),) * len(batch.images)
    boxes[:, :4] /= boxes.new_tensor([width, height] * 2)
    values = {
        "img": batch.images,
        "cls": labels.classes.float()[:, None],
        "bboxes": boxes,
        "batch_idx": labels.image.float(),
        "im_file": tuple(files),
        "ori_shape": shapes,
        "resized_shape": shapes,
    }
    if keypoints is not None:
        points = labels.keypoints
        points = boxes.new_zeros(len(labels), keypoints.count, 3) if points is None else points
        values["keypoints"] = points / points.new_tensor([width, height, 1])
    return values if task.objects else of_whole_images(values)


def boxes_of(labels: Instances, task: Task) -> Tensor:
    """Return the boxes of labels as scripts have them, in the unit of the labels: (n, 4) xywh, or (n, 5) xywhr."""
    if not task.oriented:
        return xywh_from_xyxy(labels.boxes)
    oriented = labels.oriented
    return labels.boxes.new_zeros(len(labels), 5) if oriented is None else oriented.clone()


def with_bytes(values: Mapping[str, object]) -> dict[str, object]:
    """Return a dict whose img is uint8, as it comes from a loader, in the place of floats in [0, 1]."""
    return {**values, "img": (values["img"] * 255).round().to(torch.uint8)}


def to_device(values: Mapping[str, object], device: torch.device) -> dict[str, object]:
    """Return a dict whose tensors are on `device`, with img in [0, 1]."""
    moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in values.items()}
    if isinstance(moved.get("img"), Tensor) and not moved["img"].is_floating_point():
        moved["img"] = moved["img"].float() / 255
    return moved


def batch_of(values: Mapping[str, object], device: torch.device, task: Task = DETECT) -> ScriptBatch:
    """Return a dict as a Batch on `device`. task: as for `dict_of`. Raises UserError where it lacks a key."""
    needed = (*NEEDED, *(("keypoints",) if task.keypoints else ())) if task.objects else NEEDED[:2]
    if not isinstance(values, Mapping) or (missing := [key for key in needed if key not in values]):
        shown = f"without {', '.join(missing)}" if isinstance(values, Mapping) else f"that is a {type(values).__name__}"
        raise UserError(f"The loader gave a batch {shown}; expected a dict with {', '.join(needed)}.")
    values = to_device(values, device)
    height, width = values["img"].shape[2:]
    if not task.objects:
        classes = values["cls"].flatten().long()
        whole = values["img"].new_tensor([[0, 0, width, height]]).float().expand(len(classes), 4)
        image = torch.arange(len(classes), device=classes.device)
        return ScriptBatch(values["img"].float(), Instances(whole, classes, image=image), values)
    image = values["batch_idx"].flatten().long()
    order = image.argsort(stable=True)
    labels = labels_of(values, (height, width), task)
    return ScriptBatch(values["img"].float(), replace(labels, image=image).only(order), values)


def labels_of(values: Mapping[str, Tensor], size: tuple[int, int], task: Task) -> Instances:
    """Return the labels of a dict in pixels of images of `size` (H, W), without their image.

    Raises UserError for boxes and keypoints that have other columns than those of the task.
    """
    boxes, classes = values["bboxes"].float(), values["cls"].flatten().long()
    scale = boxes.new_tensor([size[1], size[0]] * 2)
    columns = 5 if task.oriented else 4
    if boxes.ndim != 2 or boxes.shape[1] != columns:
        unit = "x, y, width and height in shares of the image" + (", and the angle" if task.oriented else "")
        raise UserError(
            f"The loader gave bboxes {tuple(boxes.shape)} for task={task.name}; expected (N, {columns}): {unit}."
        )
    if task.oriented:
        xywhr = torch.cat((boxes[:, :4] * scale, boxes[:, 4:]), 1)
        return Instances(hulls_of(corners_of(xywhr)), classes, xywhr=xywhr)
    points = None
    if task.keypoints:
        points = values["keypoints"].float()
        if points.ndim != 3 or points.shape[2] != 3:
            raise UserError(
                f"The loader gave keypoints {tuple(points.shape)}; expected (N, K, 3): x and y in shares of the image, "
                "and the visibility."
            )
        points = points * torch.cat((scale[:2], scale.new_ones(1)))
    return Instances(xyxy_from_xywh(boxes) * scale, classes, keypoints=points)
