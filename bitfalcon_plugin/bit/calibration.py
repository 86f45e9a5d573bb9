"""Measure the scales of activations and the statistics of batch norms that a ternary model needs before it is used.

Rounded weights move the mean and variance of every map, so that the statistics of the float model are wrong for it.
Measured anew over some batches, without training, they bring most of the accuracy of a lightly rounded model back
(spec/bit.md sections 1.5, 4.4; re-estimation of batch-norm statistics: Izmailov et al. 2018, arXiv:1803.05407, section
3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm  # the base of the batch norms of all dimensions

from ..config.errors import UserError
from ..config.settings import Settings
from ..data.dataset import Sample
from ..data.loading.loader import Reading
from ..models.detector import Detector
from ..models.modules.bit_layers import BitLayer
from ..tasks import task_of

IMAGES, BATCH = 256, 16  # images that both scales and statistics need, and images of one batch


def calibrate(model: Detector, batches: Iterable[Tensor], *, scales: bool = True, norms: bool = True) -> int:
    """Measure activation scales and batch-norm statistics anew, in place; return the number of batches.

    batches: training images (B, 3, H, W), floating point, RGB in [0, 1], B at least 2. scales: of the ternary layers, a
    moving average over the batches of the largest activation. norms: statistics become the plain average over the
    batches. Modes and momentum stay; an error leaves the model unchanged. UserError without batches, for a value that
    is no batch, and for a folded model, which has no batch norms.
    """
    layers = [module for module in model.modules() if isinstance(module, BitLayer)] if scales else []
    batch_norms = [module for module in model.modules() if isinstance(module, _BatchNorm)] if norms else []
    if norms and not batch_norms:
        raise UserError(
            "The model has no batch norms to measure: it is folded. Calibrate it before fuse() or freeze()."
        )
    device = next(model.parameters()).device
    buffers = [buffer for module in (*layers, *batch_norms) for buffer in module.buffers()]
    count = 0
    with torch.no_grad(), _restored_on_error(buffers), _measuring(model, layers, batch_norms):
        for images in batches:
            model(_checked(images).to(device))
            count += 1
        if not count:
            raise UserError("calibrate: no batch of images was given. Give batches of training images.")
        if wrong := [buffer for buffer in buffers if not buffer.isfinite().all()]:
            raise UserError(
                f"calibrate: {len(wrong)} scales and statistics would not be finite. "
                "Look at the images, or the weights."
            )
    return count


@contextmanager
def _restored_on_error(buffers: Sequence[Tensor]) -> Iterator[None]:
    """Give the buffers their values back when the block raises."""
    values = [buffer.clone() for buffer in buffers]
    try:
        yield
    except BaseException:
        for buffer, value in zip(buffers, values, strict=True):
            buffer.copy_(value)
        raise


@contextmanager
def _measuring(model: Detector, layers: Sequence[BitLayer], batch_norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Reset scales and statistics, and let forward passes measure them; restore modes and momentum at the end."""
    modes = [(module, module.training) for module in model.modules()]
    momenta, observing = [norm.momentum for norm in batch_norms], [layer.observing for layer in layers]
    model.eval()
    for layer in layers:
        layer.observing = layer.training = True
        if layer.act_scale is not None:
            layer.act_scale.zero_()  # the first batch sets it
    for norm in batch_norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True  # None: cumulative average
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for norm, momentum in zip(batch_norms, momenta):
            norm.momentum = momentum
        for layer, value in zip(layers, observing):
            layer.observing = value
            layer.refresh()


def _checked(images: object) -> Tensor:
    if isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point() and len(images) > 1:
        return images
    kind = type(images).__name__
    if isinstance(images, Tensor):
        kind = f"{images.dtype} tensor {tuple(images.shape)}"
    raise UserError(
        f"calibrate: a batch is a {kind}; expected floating-point images (B, 3, H, W) in [0, 1], two or more together."
    )


def calibration_images(
    samples: Sequence[Sample], settings: Settings, model: Detector, images: int = IMAGES
) -> Iterator[Tensor]:
    """Yield batches (B, 3, imgsz, imgsz) of up to `images` samples, spread evenly, on the model's device.

    Augmented as in the last epochs of training, without mixing: images as validation sees them have other statistics (a
    YOLOv12-n trained on BCCD loses 0.7 points of mAP with norms measured on augmented images, 3 to 5 on images of
    validation; its ternary head 3 and 6 to 9).
    """
    indices = torch.linspace(0, len(samples) - 1, min(images, len(samples))).tolist()
    chosen = [samples[round(index)] for index in indices]
    chosen = chosen if len(chosen) > 1 else chosen * 2  # one image alone has no variance on the smallest maps
    # The largest batch that leaves no single image for the end.
    batch = next(size for size in range(BATCH, 1, -1) if len(chosen) % size != 1)
    weight = next(model.parameters())
    form, plain = task_of(model).data, settings.replace(batch=batch, rect=False, multi_scale=False)
    loader = form.train_loader(chosen, Reading(weight.device), plain, model.multiple)
    for loaded, _ in loader.epoch(0, form.recipe(settings, True)):
        yield loaded.images.to(weight.dtype)
