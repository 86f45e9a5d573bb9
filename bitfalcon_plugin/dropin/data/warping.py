"""The random projective map of one image, by our batched augmentation with a batch of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ...data.augmentation.compose import Canvas, Pasted, Tile, move
from ...data.augmentation.geometry import draw_maps
from ...data.augmentation.render import render
from ...ops.instances import Instances as Objects
from .transform import Labels, draws, in_pixels, instances_of, objects_of, planes_of


class RandomPerspective:
    """Turn, scale, shear, move and tilt an image by chance; labels that are lost are dropped.

    degrees, shear: the largest angles; translate, scale: shares; perspective: per pixel. border: what the result is
    larger than the image by, (y, x) on each side; a mosaic says it by itself. pre_transform: of an image that is no
    mosaic.
    """

    def __init__(
        self,
        degrees: float = 0.0,
        translate: float = 0.1,
        scale: float | Sequence[float] = 0.5,
        shear: float = 0.0,
        perspective: float = 0.0,
        border: tuple[int, int] = (0, 0),
        pre_transform: Callable | None = None,
    ) -> None:
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, scale, shear
        self.perspective, self.border, self.pre_transform = perspective, border, pre_transform

    def __call__(self, labels: Labels) -> Labels:
        if self.pre_transform is not None and "mosaic_border" not in labels:
            labels = self.pre_transform(labels)
        labels.pop("ratio_pad", None)  # holds no more
        image, instances = labels["img"], in_pixels(labels)
        border = labels.pop("mosaic_border", self.border)
        sides = image.shape[0], image.shape[1]
        size = sides[0] + 2 * border[0], sides[1] + 2 * border[1]
        canvas = Canvas(size, sides, (-border[0], -border[1]))
        maps, scale = self._maps(canvas)
        objects = move(objects_of(instances), maps, scale, canvas)
        labels["img"] = self._warped(image, maps, canvas)
        labels["instances"], rows = instances_of(objects)
        labels["cls"] = labels["cls"][rows]
        labels["resized_shape"] = labels["img"].shape[:2]
        return labels

    def _maps(self, canvas: Canvas) -> tuple[torch.Tensor, torch.Tensor]:
        """The map (1, 3, 3) from the image to the result, and its scale (1,)."""
        uniform, low_high = draws(1, 8), self.scale
        if isinstance(low_high, (list, tuple)):  # from a to b: as 1 + signed * scale with signed from -1 to 1
            gain = low_high[0] + float(uniform[0, 3]) * (low_high[1] - low_high[0])
            uniform[0, 3] = 1.0
            scale = gain - 1
        else:
            scale = low_high
        ranges = {name: getattr(self, name) for name in ("degrees", "translate", "shear", "perspective")}
        return draw_maps(uniform, size=canvas.size, centre=canvas.centre, scale=scale, **ranges)

    def _warped(self, image: np.ndarray, maps: torch.Tensor, canvas: Canvas) -> np.ndarray:
        planes = planes_of(image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2))
        scene = [Pasted(Tile(planes, Objects.empty()), 0, 0)]
        options = {"whole_pixels": False, "flat": not self.perspective}
        (pixels,) = render([scene], maps, canvas, torch.device("cpu"), **options)
        result = pixels.mul_(255).add_(0.5).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        return result if image.shape[2] == 3 else result[..., : image.shape[2]]
