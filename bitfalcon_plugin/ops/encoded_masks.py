"""Masks as run lengths in COCO's compressed form: a mask of a whole image in some hundred bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class EncodedMasks:
    """The masks of n objects. codes: for each object {"size": [h, w], "counts": bytes}, as pycocotools encodes it."""

    codes: Sequence[dict[str, object]]

    @classmethod
    def of(cls, masks: Tensor) -> EncodedMasks:
        """Encode masks (n, h, w) bool."""
        from pycocotools import mask  # predicting needs none of it

        if not len(masks):
            return cls([])
        return cls(mask.encode(np.asfortranarray(masks.byte().cpu().permute(1, 2, 0).numpy())))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, keep: Tensor) -> EncodedMasks:
        """The masks that `keep` selects: a mask (n,) bool, or indices (m,) int64 in any order."""
        indices = keep.nonzero().flatten() if keep.dtype == torch.bool else keep
        return EncodedMasks([self.codes[index] for index in indices.tolist()])

    def decode(self) -> Tensor:
        """Return the masks (n, h, w) bool of objects of one image. Raises ValueError without an object."""
        from pycocotools import mask

        if not self.codes:
            raise ValueError("without an object the size of the masks is not known")
        return torch.from_numpy(mask.decode(list(self.codes))).permute(2, 0, 1).bool()
