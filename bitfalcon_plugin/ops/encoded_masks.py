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


def encode_runs(patches: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> list[dict[str, object]]:
    """Encode masks that are empty outside of patches (n, h, w) bool at (top, left), each (n,), on planes of `size`.

    The run lengths of a mask go down its columns, and begin with those outside.
    """
    from pycocotools import mask

    if not len(patches):
        return []
    height, width = size
    columns = torch.nn.functional.pad(patches.transpose(1, 2), (1, 1)).numpy()  # (n, w, h + 2), empty at both ends
    owner, column, row = np.nonzero(columns[..., 1:] != columns[..., :-1])  # where a run begins, and where it ends
    place = (left.numpy()[owner] + column) * height + top.numpy()[owner] + row
    # A run that reaches the bottom of the plane goes on where the next column begins with one.
    joined = np.flatnonzero((place[1:] == place[:-1]) & (owner[1:] == owner[:-1]))
    kept = np.ones(len(place), bool)
    kept[joined] = kept[joined + 1] = False
    owner, place = owner[kept], place[kept]
    ends = np.searchsorted(owner, np.arange(len(patches)), side="right")
    place = np.insert(place, ends, height * width)  # the end of each plane, behind the places of its object
    stops = ends + np.arange(1, len(patches) + 1)
    runs = np.diff(place, prepend=0)
    runs[stops[:-1]] = place[stops[:-1]]
    counts = [part.tolist() for part in np.split(runs, stops[:-1])]
    counts = [part[:-1] if len(part) > 1 and not part[-1] else part for part in counts]  # nothing after a last run
    return mask.frPyObjects([{"size": [height, width], "counts": part} for part in counts], height, width)
