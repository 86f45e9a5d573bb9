"""Scan a split of class folders: check its images, and give each the class of its folder as its label.

The label of an image is an Instances of one row, like a box of the whole image: class weights, fraction, caches and
pictures treat it as any other label. The folders are read by formats.class_folders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from ..config.errors import MissingFileError, UserError, raise_problems
from ..ops.instances import Instances
from .dataset import Sample, Scan, indices_of
from .formats.class_folders import ClassListing, existing_split, list_class_images, some_of_each
from .formats.dataset_yaml import DataSpec
from .formats.folders import some
from .scan_cache import scan_images


def scan_classes(
    data: DataSpec,
    split: str,
    *,
    single_cls: bool = False,
    classes: int | Sequence[int] | None = None,
    fraction: float = 1.0,
) -> Scan:
    """List the images of a split and check the header and the end of each file.

    Args:
        single_cls: every image gets class 0.
        classes: keep only images of these classes (indices).
        fraction: keep round(n * fraction) of the n images of each class, at least one, evenly spaced.

    Where a split is missing, val and test stand in for each other, with a note. An image that cannot be used is left
    out, counted and noted. Raises MissingFileError if a folder is missing, and UserError for folders of classes that
    train lacks, or if no image is left.
    """
    chosen = indices_of(classes, None if single_cls else data.nc)
    source, note = existing_split(data, split)
    listing = list_class_images(data, source)
    title = f"Split '{split}' of '{data.path}'"
    if listing.absent:
        raise MissingFileError(f"{title}: there is no folder {some([repr(str(path)) for path in listing.absent])}.")
    raise_problems(f"{title} cannot be used:", listing.problems)
    if fraction < 1:
        listing = some_of_each(listing, fraction)
    pairs = [pair for pair in zip(listing.paths, listing.classes) if chosen is None or pair[1] in chosen]
    if not pairs:
        raise UserError(_empty_message(title, data, source, listing, chosen))
    images = scan_images([path for path, _ in pairs], None)
    labels = {index: whole_image(0 if single_cls else index) for index in data.names}
    samples = tuple(
        Sample(image.path, image.size, labels[index]) for image, (_, index) in zip(images, pairs) if image.size
    )
    unreadable = [note for image in images for note in image.notes]
    if not samples:
        raise_problems(f"{title} has no usable image ({len(pairs)} listed):", unreadable)
    notes = ([note] if note else []) + listing.notes + unreadable
    return Scan(samples, len(samples), 0, 0, len(images) - len(samples), tuple(notes))


def whole_image(index: int) -> Instances:
    """The label of an image of class `index`: one row, whose box is the whole image."""
    return Instances(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([index]))


def describe_classes(result: Scan) -> str:
    """What a scan of class folders holds, in words."""
    count = len(Counter(int(sample.labels.classes) for sample in result.samples))
    return f"{len(result.samples)} images in {count} class{'es' * (count != 1)}, {result.unreadable} unreadable"


def _empty_message(title: str, data: DataSpec, split: str, listing: ClassListing, chosen: frozenset[int] | None) -> str:
    if chosen is not None and listing.paths:
        return f"{title} has no image of classes={sorted(chosen)}."
    if split not in data.splits:
        return f"{title} has no image: split= leaves none, because no class has two images."
    folders = some([f"'{Path(entry)}'" for entry in data.splits[split]])
    return f"{title} is empty: no image in the class folders of {folders}."
