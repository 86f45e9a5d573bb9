"""Transforms of one image without chance in where things are: letterbox, flips, colours, and the form for a batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ...data.augmentation.hsv import shift_hsv_
from ...ops.resize import resize_bilinear
from ..utils.instance import Instances
from .masks import polygons2masks, polygons2masks_overlap, smallest_rectangles
from .transform import BaseTransform, Labels, draws, planes_of


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (h, w, c) to (*size, c): bytes as OpenCV does, other types by their exact values."""
    if image.shape[:2] == size:
        return image
    if image.dtype == np.uint8:
        return resize_bilinear(image, size)
    planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].double()
    scaled = functional.interpolate(planes, size=size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    return np.ascontiguousarray(scaled.numpy()).astype(image.dtype)


class LetterBox:
    """Resize an image into new_shape with its proportions, and pad it.

    auto: pad to a multiple of stride only. scale_fill (or scaleFill): stretch to new_shape. scaleup: small images are
    enlarged. center: the image is in the middle, otherwise at the upper left. new_shape: (h, w), or a side.
    """

    def __init__(
        self,
        new_shape: int | Sequence[int] = (640, 640),
        auto: bool = False,
        scale_fill: bool = False,
        scaleup: bool = True,
        center: bool = True,
        stride: int = 32,
        padding_value: int = 114,
        interpolation: int = 1,
        scaleFill: bool | None = None,
    ) -> None:
        self.new_shape = new_shape
        self.auto, self.scaleup, self.stride, self.center = auto, scaleup, stride, center
        self.scale_fill = self.scaleFill = scale_fill if scaleFill is None else scaleFill
        self.padding_value, self.interpolation = padding_value, interpolation  # 1 is OpenCV's INTER_LINEAR

    def __call__(self, labels: Labels | None = None, image: np.ndarray | None = None) -> Any:
        """Return the image (H, W, c); of a dict, the dict with img, resized_shape, ratio_pad and moved instances."""
        labels = {} if labels is None else labels
        image = labels["img"] if image is None else image
        image = image[..., None] if image.ndim == 2 else image
        new_shape = labels.pop("rect_shape", self.new_shape)
        size, inner, (top, left) = self._placed(image.shape[:2], new_shape)
        canvas = np.full((*size, image.shape[2]), self.padding_value, image.dtype)
        canvas[top : top + inner[0], left : left + inner[1]] = resized(image, inner)
        if not labels:
            return canvas
        ratio = inner[1] / image.shape[1], inner[0] / image.shape[0]  # of x, of y
        if "ratio_pad" in labels:
            labels["ratio_pad"] = (labels["ratio_pad"], (left, top))
        if "instances" in labels:
            self._move(labels["instances"], image.shape[:2], ratio, (left, top))
        labels["img"], labels["resized_shape"] = canvas, tuple(size)
        return labels

    def _placed(
        self, size: Sequence[int], new_shape: int | Sequence[int]
    ) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """The size of the result, the size of the image on it, and its upper left corner (y, x)."""
        target = (new_shape, new_shape) if isinstance(new_shape, (int, np.integer)) else tuple(map(int, new_shape))
        ratio = min(target[0] / size[0], target[1] / size[1])
        ratio = ratio if self.scaleup else min(ratio, 1.0)
        inner = (max(round(size[0] * ratio), 1), max(round(size[1] * ratio), 1))
        rest = [outer - side for outer, side in zip(target, inner, strict=True)]
        if self.auto:
            rest = [side % self.stride for side in rest]
        elif self.scale_fill:
            inner, rest = target, [0, 0]
        corner = [round(side / 2 - 0.1) if self.center else 0 for side in rest]
        return (inner[0] + rest[0], inner[1] + rest[1]), inner, (corner[0], corner[1])

    @staticmethod
    def _move(instances: Instances, size: Sequence[int], ratio: tuple[float, float], corner: tuple[int, int]) -> None:
        instances.convert_bbox(format="xyxy")
        instances.denormalize(size[1], size[0])
        instances.scale(*ratio)
        instances.add_padding(*corner)


class RandomHSV:
    """Shift hue, saturation and value by up to hgain (turns), sgain and vgain (relative)."""

    def __init__(self, hgain: float = 0.5, sgain: float = 0.5, vgain: float = 0.5) -> None:
        self.hgain, self.sgain, self.vgain = hgain, sgain, vgain

    def __call__(self, labels: Labels) -> Labels:
        image = labels["img"]
        if image.shape[-1] == 3 and (self.hgain or self.sgain or self.vgain):
            gains = (draws(1, 3) * 2 - 1) * torch.tensor([self.hgain, self.sgain, self.vgain], dtype=torch.float64)
            planes = planes_of(image[..., ::-1])[None].float().div_(255).contiguous()  # RGB
            shift_hsv_(planes, gains)
            colours = planes[0].mul_(255).add_(0.5).to(torch.uint8).permute(1, 2, 0).numpy()
            labels["img"] = np.ascontiguousarray(colours[..., ::-1])
        return labels


class RandomFlip:
    """Mirror an image with probability p: direction "horizontal" (left to right) or "vertical".

    flip_idx: for each keypoint the index of the one that it becomes in a mirror, whichever way that goes.
    """

    def __init__(self, p: float = 0.5, direction: str = "horizontal", flip_idx: Sequence[int] | None = None) -> None:
        assert direction in ("horizontal", "vertical"), f"direction={direction!r}; expected horizontal or vertical"
        assert 0 <= p <= 1, f"p={p}; expected a probability"
        self.p, self.direction, self.flip_idx = p, direction, flip_idx

    def __call__(self, labels: Labels) -> Labels:
        if random.random() >= self.p:
            return labels
        image, instances = labels["img"], labels["instances"]
        instances.convert_bbox(format="xywh")
        if self.direction == "vertical":
            labels["img"] = np.ascontiguousarray(image[::-1])
            instances.flipud(image.shape[0])
        else:
            labels["img"] = np.ascontiguousarray(image[:, ::-1])
            instances.fliplr(image.shape[1])
        if self.flip_idx and instances.keypoints is not None:
            instances.keypoints = np.ascontiguousarray(instances.keypoints[:, list(self.flip_idx)])
        return labels


class Format:
    """Turn the dict of one image into the tensors of a batch: img, cls, bboxes, and masks or keypoints.

    return_obb: bboxes are (n, 5): xywh and radians, of the smallest rectangle around each outline. mask_overlap: one
    plane with the number of each object, large objects first, instead of one plane for each. mask_ratio: the image's
    side over that of the masks. bgr: probability that the image stays BGR; otherwise it becomes RGB.
    """

    def __init__(
        self,
        bbox_format: str = "xywh",
        normalize: bool = True,
        return_mask: bool = False,
        return_keypoint: bool = False,
        return_obb: bool = False,
        mask_ratio: int = 4,
        mask_overlap: bool = True,
        batch_idx: bool = True,
        bgr: float = 0.0,
    ) -> None:
        self.bbox_format, self.normalize, self.batch_idx, self.bgr = bbox_format, normalize, batch_idx, bgr
        self.return_mask, self.return_keypoint, self.return_obb = return_mask, return_keypoint, return_obb
        self.mask_ratio, self.mask_overlap = mask_ratio, mask_overlap

    def __call__(self, labels: Labels) -> Labels:
        image, cls, instances = labels.pop("img"), labels.pop("cls"), labels.pop("instances")
        height, width = image.shape[:2]
        instances.convert_bbox(format=self.bbox_format)
        instances.denormalize(width, height)
        if self.return_mask:
            masks, instances, cls = self._masks(instances, cls, height, width)
            labels["masks"] = torch.from_numpy(masks)
        labels["img"] = self._format_img(image)
        labels["cls"] = torch.from_numpy(np.array(cls)) if len(instances) else torch.zeros(0, 1)
        labels["bboxes"] = torch.from_numpy(np.array(instances.bboxes)) if len(instances) else torch.zeros(0, 4)
        if self.return_keypoint:
            labels["keypoints"] = self._keypoints(instances, height, width)
        if self.return_obb:
            labels["bboxes"] = smallest_rectangles(instances.segments_or_corners())
        if self.normalize:
            labels["bboxes"][:, :4] /= torch.tensor([width, height, width, height])
        if self.batch_idx:
            labels["batch_idx"] = torch.zeros(len(instances))
        return labels

    def _format_img(self, image: np.ndarray) -> torch.Tensor:
        """(h, w, c) BGR -> (c, h, w), RGB unless chance keeps BGR."""
        image = image[..., None] if image.ndim == 2 else image
        keeps = image.shape[2] != 3 or self.bgr and random.random() < self.bgr
        return torch.from_numpy(np.ascontiguousarray((image if keeps else image[..., ::-1]).transpose(2, 0, 1)))

    def _masks(
        self, instances: Instances, cls: np.ndarray, height: int, width: int
    ) -> tuple[np.ndarray, Instances, np.ndarray]:
        """The masks, and objects and classes in the order of the masks."""
        if not len(instances):
            count = 1 if self.mask_overlap else 0
            return np.zeros((count, height // self.mask_ratio, width // self.mask_ratio), np.uint8), instances, cls
        outlines = instances.segments_or_corners()
        if not self.mask_overlap:
            return polygons2masks((height, width), outlines, 1, self.mask_ratio), instances, cls
        plane, order = polygons2masks_overlap((height, width), outlines, self.mask_ratio)
        return plane[None], instances[order], cls[order]

    def _keypoints(self, instances: Instances, height: int, width: int) -> torch.Tensor:
        if instances.keypoints is None:
            return torch.empty(0, 3)
        keypoints = torch.from_numpy(np.array(instances.keypoints))
        if self.normalize:
            keypoints[..., :2] /= torch.tensor([width, height])
        return keypoints


class Albumentations(BaseTransform):
    """Transforms of the package albumentations where it is installed; without it the image stays as it is.

    transforms: a list of them; by default a weak blur, grey and contrast, each on 1 % of the images. Those that move
    boxes drop the outlines and keypoints of the image.
    """

    def __init__(self, p: float = 1.0, transforms: Sequence[Any] | None = None) -> None:
        self.p, self.transform = p, None
        try:
            import albumentations
        except ImportError:
            if transforms:
                raise ImportError(
                    "Albumentations(transforms=...) needs the package: pip install albumentations"
                ) from None
            return
        weak = [getattr(albumentations, name)(p=0.01) for name in ("Blur", "MedianBlur", "ToGray", "CLAHE")]
        chosen = weak if transforms is None else list(transforms)
        self.contains_spatial = any(isinstance(each, albumentations.DualTransform) for each in chosen)
        boxes = albumentations.BboxParams(format="yolo", label_fields=["rows"]) if self.contains_spatial else None
        self.transform = albumentations.Compose(chosen, bbox_params=boxes)

    def __call__(self, labels: Labels) -> Labels:
        if self.transform is None or random.random() > self.p:
            return labels
        if not self.contains_spatial:
            labels["img"] = self.transform(image=labels["img"])["image"]
            return labels
        image, instances = labels["img"], labels["instances"]
        instances.convert_bbox("xywh")
        instances.normalize(image.shape[1], image.shape[0])
        new = self.transform(image=image, bboxes=instances.bboxes, rows=np.arange(len(instances)))
        rows = np.asarray(new["rows"], dtype=np.int64)
        labels["img"], labels["cls"] = new["image"], labels["cls"][rows]
        boxes = np.asarray(new["bboxes"], np.float32).reshape(-1, 4)
        labels["instances"] = Instances(boxes, bbox_format="xywh", normalized=True)
        return labels
