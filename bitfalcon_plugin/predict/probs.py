"""The probabilities of the classes of one image as a public object. Written from spec/segment-classify.md 2.8."""

from __future__ import annotations

import numpy as np
import torch

from .parts import Array, Part


class Probs(Part):
    """Probabilities of the classes of one image. The length is the number of classes.

    probs (Tensor or ndarray [nc]): a value in [0, 1] for each class. orig_shape: (h, w) of the image, if known. Of
    equal probabilities the lower class comes first. Raises ValueError for data of another shape.
    """

    ndim = 1
    shown = ("data", "orig_shape", "shape", "top1", "top1conf", "top5", "top5conf")

    def __init__(self, probs: Array, orig_shape: tuple[int, int] | None = None):
        super().__init__(probs, orig_shape)

    def _problem(self, data: Array) -> str:
        return "" if data.ndim == 1 else "(nc,): a probability for each class"

    @property
    def top1(self) -> int:
        """Index of the most probable class."""
        return self.top5[0]

    @property
    def top5(self) -> list[int]:
        """Indices of the five most probable classes, fewer where there are fewer classes; the best first."""
        return torch.as_tensor(self.data).argsort(descending=True, stable=True)[:5].tolist()

    @property
    def top1conf(self) -> Array:
        """Probability of the most probable class, without axes."""
        return self.data[self.top1]

    @property
    def top5conf(self) -> Array:
        """(5,) probabilities of the classes of `top5`."""
        top = self.top5
        return self.data[np.asarray(top)] if isinstance(self.data, np.ndarray) else self.data[top]
