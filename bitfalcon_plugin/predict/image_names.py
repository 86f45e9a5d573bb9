"""Names of images in what predict and val write: ids in COCO JSON, and stems of picture and label files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..config.notes import print_note


def image_ids(paths: Sequence[str | Path]) -> list[int | str]:
    """The image_id of each image: its stem, as an integer if it is a number.

    Images with equal stems get their path below the folder common to all images: without the suffix, or with it if only
    the suffixes differ. The second id of a path that is given twice ends in -2, and so on.
    """
    ids: list[int | str] = [_number(Path(path).stem) for path in paths]
    if len(set(ids)) == len(ids):
        return ids
    parts = [Path(path).parts for path in paths]
    common = os.path.commonprefix([part[:-1] for part in parts])
    print_note(
        "some images of different folders have the same name: the image_id of these is their path below "
        f"'{Path(*common)}', without the suffix."
    )
    below = [Path(*part[len(common) :]) for part in parts]
    for names in ([path.with_suffix("").as_posix() for path in below], [path.as_posix() for path in below]):
        counts = Counter(ids)
        ids = [name if counts[key] > 1 else key for key, name in zip(ids, names)]
    repeats: Counter[int | str] = Counter()
    for index, key in enumerate(ids):
        repeats[key] += 1
        if repeats[key] > 1:
            ids[index] = f"{key}-{repeats[key]}"
    return ids


def task1_images(paths: Sequence[str | Path], ids: Sequence[int | str]) -> list[str]:
    """The name of each image in Task1 files of DOTA: its stem, zeros in front too; its image_id where stems are equal.

    ids: `image_ids` of the paths.
    """
    stems = [Path(path).stem for path in paths]
    counts = Counter(stems)
    return [stem if counts[stem] == 1 else str(key) for stem, key in zip(stems, ids, strict=True)]


def _number(stem: str) -> int | str:
    return int(stem) if stem.isascii() and stem.isdecimal() else stem


def file_stems(paths: Sequence[str | Path]) -> list[str]:
    """The file name, without suffix, of what is written about each image: the stem of its path.

    Of equal stems, upper and lower case aside, the second in the order of the paths gets -2, the third -3, and so on.
    So the names do not depend on the order in which the images are given.
    """
    counts: Counter[str] = Counter()
    stems = [""] * len(paths)
    for index in sorted(range(len(paths)), key=lambda index: str(paths[index])):
        stem = name = Path(paths[index]).stem
        while counts[name.casefold()]:
            counts[stem.casefold()] += 1
            name = f"{stem}-{counts[stem.casefold()]}"
        counts[name.casefold()] = 1
        stems[index] = name
    return stems
