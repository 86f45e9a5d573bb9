"""Divide the images of a dataset anew into train, val and test: list files name them, and no image is moved."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace

from ...config.errors import UserError
from ..dataset import Sample
from .source import Part, Source

SPLITS = ("train", "val", "test")


def divide(source: Source, shares: Sequence[float]) -> Source:
    """Return the source with all labelled images divided by the shares of train, val and test.

    Which images come where follows from their file names, the same ones in every run. Raises UserError where a share
    above 0 leaves its split without an image.
    """
    folders = {image: folder for (_, image), folder in reversed(source.folders.items())}
    pool = {sample.image: sample for part in source.parts.values() if part.labelled for sample in part.samples}
    samples = sorted(pool.values(), key=_order_of)
    ends = [round(sum(shares[: place + 1]) * len(samples)) for place in range(len(shares))]
    parts: dict[str, Part] = {}
    notes = [note for part in source.parts.values() for note in part.notes]
    start = 0
    for split, share, end in zip(SPLITS, shares, ends):
        chosen = sorted(samples[start:end], key=lambda sample: str(sample.image))
        if share and not chosen:
            raise UserError(
                f"split={'/'.join(f'{each:g}' for each in shares)} leaves no image for {split}: there are "
                f"{len(samples)}."
            )
        if chosen:
            parts[split] = Part(chosen, True, notes if not parts else ())
        start = end
    left_out: dict[str, int] = {}
    for part in source.parts.values():
        for reason, count in part.left_out.items():
            left_out[reason] = left_out.get(reason, 0) + count
    first = next(iter(parts))
    parts[first] = replace(parts[first], left_out=left_out)
    placed = {(split, each.image): folders[each.image] for split, part in parts.items() for each in part.samples}
    return replace(source, parts=parts, divided=True, folders=placed)


def _order_of(sample: Sample) -> bytes:
    return hashlib.blake2b(os.fsencode(sample.image.name), digest_size=16).digest() + os.fsencode(sample.image)
