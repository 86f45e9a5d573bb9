"""Classification of whole images: its loss, results and metrics.

Written from spec/segment-classify.md 2.2 and 2.6 to 2.9; the numbers agree with the recorded loss vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..data.cropping import input_fit, visible_part
from ..ops.instances import Instances
from ..ops.letterbox import Fit, legal_size
from ..ops.nms import Suppression
from .detect import Decoded

if TYPE_CHECKING:  # predicting needs neither
    from ..data.dataset import Sample
    from .class_metrics import ClassMetrics

LOSSES = {"loss": None}  # it has no gain
WITHOUT_EFFECT = {
    "conf": "every class gets its probability",
    "single_cls": "one class leaves nothing to tell apart",
    "augment": "each image is computed once",
    **dict.fromkeys(("iou", "max_det", "agnostic_nms", "letterbox_ap", "save_crop"), "there are no boxes"),
    **dict.fromkeys(("tile", "overlap"), "a class belongs to the image as a whole"),
    **dict.fromkeys(("retina_masks", "overlap_mask", "mask_ratio"), "there are no masks"),
    **dict.fromkeys(("box", "cls", "dfl"), "the loss is the cross-entropy alone"),
}


def classification_loss(
    raw: Mapping[str, Tensor],
    labels: Instances,
    *,
    sizes: Sequence[tuple[int, int]] = (),
    strides: Sequence[float] = (),
    gains: Mapping[str, float] | None = None,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the mean cross-entropy of logits (B, nc) against labels, in float32 whatever autocast says.

    labels: a row for each image, with `image`; an image without a row does not count. class_weights (nc,): the mean is
    weighted by those of the true classes. sizes, strides, gains: without effect.
    """
    logits = raw["logits"]
    with torch.autocast(logits.device.type, enabled=False):
        return {"loss": F.cross_entropy(logits.float()[labels.image], labels.classes, weight=class_weights)}


def decode_classes(decoded: Decoded, rule: Suppression) -> list[Instances]:
    """Return for each image one row: its most probable class, the probabilities of all, and the whole input as box."""
    probabilities = decoded.candidates.float()  # (B, nc)
    scores, classes = probabilities.max(1)
    height, width = decoded.size
    boxes = probabilities.new_tensor([[0.0, 0.0, width, height]])
    rows = zip(classes.split(1), scores.split(1), probabilities.split(1), strict=True)
    return [Instances(boxes, cls, score, probabilities=each) for cls, score, each in rows]


def class_fits(
    sizes: Sequence[tuple[int, int]],
    imgsz: int | tuple[int, int],
    multiple: int,
    *,
    square: bool = True,
    letterbox: bool = False,
) -> list[Fit]:
    """The Fits of images of `sizes` (h, w) px: the middle square of each, or with two sides in imgsz all of it.

    imgsz: a side or (H, W), rounded up to a multiple of `multiple`. letterbox: all of an image, its proportions kept.
    square: without effect.
    """
    height, width = legal_size(imgsz, multiple)
    size = height if isinstance(imgsz, int) else (height, width)
    return [input_fit(each, size, letterbox=letterbox) for each in sizes]


def describe_crop(canvas: tuple[int, int]) -> str:
    """How an image becomes an input of `canvas` (H, W), in words, for people who write other programs."""
    height, width = canvas
    if height != width:
        return f"RGB / 255; resized to {height} x {width} (height x width), bilinear with antialiasing"
    return (
        f"RGB / 255, no mean and deviation; the shorter side resized to {height}, the longer one to "
        f"int({height} * long / short), bilinear with antialiasing; then the central {height} x {width}, its offset "
        "rounded half to even"
    )


def class_tile(pixels: np.ndarray, fit: Fit) -> Tensor:
    """What the network input shows of (h, w, 3) BGR uint8, resized with antialiasing: RGB uint8 (h', w', 3)."""
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., ::-1]))
    return torch.from_numpy(np.array(visible_part(picture, fit)))


def place_classes(
    detections: Instances, fit: Fit, prototypes: Tensor | None = None, full_size: bool = False
) -> Instances:
    """Return the row of one image with the whole original image as its box."""
    height, width = fit.original
    return replace(detections, boxes=detections.boxes.new_tensor([[0.0, 0.0, width, height]]))


def evaluate_classes(
    samples: Sequence[Sample], detections: Instances, names: Mapping[int, str], *, conf: float
) -> ClassMetrics:
    """Count how often the true class is the most probable one, and how often it is among the first five.

    detections: with probabilities; `image` is the index of the sample. Samples without a label do not count. names:
    class index -> name. conf: without effect.
    """
    from .class_metrics import class_metrics

    truth = torch.tensor([next(iter(sample.labels.classes.tolist()), -1) for sample in samples], dtype=torch.int64)
    probabilities = detections.probabilities
    if probabilities is None:
        probabilities = torch.zeros(0, len(names))
    of_image = truth[detections.image]
    return class_metrics(probabilities[of_image >= 0], of_image[of_image >= 0], names)
