"""Measure the scales of activations and the statistics of batch norms that a ternary model needs before it is used.

Rounded weights move the mean and variance of every map, so that the statistics of the float model are wrong for it.
Measured anew over some batches, without training, they bring most of the accuracy of a lightly rounded model back
(spec/bit.md sections 1.5, 4.4; re-estimation of batch-norm statistics: Izmailov et al. 2018, arXiv:1803.05407, section
3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..config.errors import UserError
from ..config.settings import Settings
from ..data.augmentation.augment import recipe_of
from ..data.dataset import Sample
from ..data.loading.loader import Reading, TrainLoader
from ..models.detector import Detector
from ..models.modules.bit_layers import BitConv2d, BitLinear

IMAGES, BATCH = 256, 16  # how many are enough for both


def calibrate(model: Detector, batches: Iterable[Tensor], *, scales: bool = True, norms: bool = True) -> int:
    """Measure activation scales and batch-norm statistics anew, in place; returns how many batches that took.

    batches: images (B, 3, H, W), floating point, RGB in [0, 1], of training; two or more images each. scales: of the
    ternary layers, a moving average over the batches of the largest activation. norms: statistics become the plain
    average over the batches. Modes and momentum are as before afterwards; what fails changes nothing. UserError without
    batches, for what is no batch, and for a folded model, which has no batch norms any more.
    """
    layers = [m for m in model.modules() if isinstance(m, (BitConv2d, BitLinear))] if scales else []
    bns = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)] if norms else []
    if norms and not bns:
        raise UserError(
            "The model has no batch norms to measure: it is folded. Calibrate it before fuse() or freeze()."
        )
    device = next(model.parameters()).device
    before = [(buffer, buffer.clone()) for module in (*layers, *bns) for buffer in module.buffers()]
    modes, momenta = [(m, m.training) for m in model.modules()], [bn.momentum for bn in bns]
    observing = [layer.observing for layer in layers]
    model.eval()
    for layer in layers:
        layer.observing = layer.training = True
        if layer.act_scale is not None:
            layer.act_scale.zero_()  # the first batch sets it
    for bn in bns:
        bn.reset_running_stats()
        bn.momentum, bn.training = None, True  # None: cumulative average
    count = 0
    try:
        with torch.no_grad():
            for images in batches:
                model(_checked(images).to(device))
                count += 1
            if not count:
                raise UserError("calibrate: no batch of images was given. Give batches of training images.")
            if wrong := [buffer for buffer, _ in before if not buffer.isfinite().all()]:
                raise UserError(
                    f"calibrate: {len(wrong)} scales and statistics would not be finite. "
                    "Look at the images, or the weights."
                )
    except BaseException:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
        raise
    finally:
        for module, training in modes:
            module.training = training
        for bn, momentum in zip(bns, momenta):
            bn.momentum = momentum
        for layer, value in zip(layers, observing):
            layer.observing = value
            layer.refresh()
    return count


def _checked(images: object) -> Tensor:
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point() or len(images) < 2:
        what = (
            f"a {images.dtype} tensor {tuple(images.shape)}"
            if isinstance(images, Tensor)
            else f"a {type(images).__name__}"
        )
        raise UserError(
            f"calibrate: a batch is {what}; expected floating-point images (B, 3, H, W) in [0, 1], "
            "two or more together."
        )
    return images


def calibration_images(
    samples: Sequence[Sample], settings: Settings, model: Detector, images: int = IMAGES
) -> Iterator[Tensor]:
    """Batches (B, 3, imgsz, imgsz) of up to `images` samples, spread evenly over all, on the model's device.

    Augmented as in the last epochs of training, without mixing: statistics of images as validation sees them are others
    (a YOLOv12-n trained on BCCD loses 0.7 points of mAP with norms measured on the former, 3 to 5 on the latter; its
    ternary head 3 and 6 to 9).
    """
    chosen = [
        samples[round(place)] for place in torch.linspace(0, len(samples) - 1, min(images, len(samples))).tolist()
    ]
    chosen = chosen if len(chosen) > 1 else chosen * 2  # one image alone has no variance on the smallest maps
    weight = next(model.parameters())
    batch = next(
        size for size in range(BATCH, 1, -1) if len(chosen) % size != 1
    )  # no batch of a single image at the end
    sizes = {"imgsz": settings.imgsz, "batch": batch, "multiple": model.multiple}
    loader = TrainLoader(chosen, Reading(weight.device), seed=settings.seed, **sizes)
    for made, _ in loader.epoch(0, recipe_of(settings, closed=True)):
        yield made.images.to(weight.dtype)
