"""The survey of class folders, and what can be wrong or odd in them beside what can be in any dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..class_dataset import whole_image
from ..formats.class_folders import list_class_images, read_class_folders
from ..formats.folders import class_folders
from ..formats.yolo import LabelFile
from .checks import Finding, View, dataset_problems, duplicates, unusual_images
from .survey import Picture, Survey, examine_each, examine_image

USUAL_SIDE = 224  # px of the network input, where imgsz= is not given
FEW_IMAGES = 10  # of a class in train
MAX_IMBALANCE = 10  # the most frequent class has at most this many times the images of the rarest
LONG = 2.0  # the longer side in lengths of the shorter one: from here on at most half of the image is seen


def survey_class_folders(data: str | Path, *, share: float | None = None, allow_outside: bool = False) -> Survey:
    """Read every image of every split; problems are collected, not raised. Arguments as of `load_class_folders`.

    Folders that are not split are read as train. Raises MissingFileError if the folder does not exist.
    """
    spec, problems = read_class_folders(data, share=share, allow_outside=allow_outside)
    if not spec.splits and (names := class_folders(spec.root)):
        spec = replace(spec, names=dict(enumerate(names)), splits={"train": (str(spec.root),)})
    splits = ("train", "val") if spec.share else tuple(spec.splits)
    listings = {split: list_class_images(spec, split) for split in splits}
    labels = {index: LabelFile(whole_image(index)) for index in spec.names}
    items = {split: list(zip(listing.paths, listing.classes)) for split, listing in listings.items()}
    pictures = examine_each(items, lambda item: examine_image(item[0], labels[item[1]]))
    known = set(problems)
    for split, listing in listings.items():
        problems += [f"{split}: {problem}" for problem in listing.problems if problem not in known]
    absent = tuple((split, path) for split, listing in listings.items() for path in listing.absent)
    notes = (*spec.notes, *(note for listing in listings.values() for note in listing.notes))
    return Survey(spec, tuple(problems), absent, pictures, (), notes, by_class=True)


def _classes(view: View) -> Iterator[Finding]:
    counts = {split: Counter(table[:, 0].tolist()) for split, table in view.boxes.items()}
    train = counts.get("train", Counter())
    for split, count in counts.items():
        lacking = tuple(name for index, name in view.names.items() if not count[index])
        if lacking and count:
            yield Finding("warning", "missing class", f"of {len(view.names)} classes have no image in {split}", lacking)
    few = tuple(f"{name}: {train[index]}" for index, name in view.names.items() if 0 < train[index] < FEW_IMAGES)
    if few:
        yield Finding("note", "rare class", f"classes with fewer than {FEW_IMAGES} images in train", few)
    if train and max(train.values()) > MAX_IMBALANCE * min(train.values()):
        (most, high), (least, low) = train.most_common()[0], train.most_common()[-1]
        yield Finding(
            "warning",
            "imbalance",
            f"Of '{view.names[most]}' there are {high} images in train, of '{view.names[least]}' {low}: cls_pw= weighs "
            "rare classes more.",
        )


def _sizes(view: View) -> Iterator[Finding]:
    usable = [(split, picture) for split, picture in view.pictures() if picture.size]
    small = [min(picture.size) for _, picture in usable if 2 * min(picture.size) < view.imgsz]
    if small:
        description = (
            f"{len(small)} of {len(usable)} images have a shorter side under {view.imgsz // 2} px (the least "
            f"{min(small)}), half of imgsz={view.imgsz}: they are enlarged; a smaller imgsz= is faster."
        )
        yield Finding("note", "small for imgsz", description)
    long = tuple(
        f"{split}: {view.near(picture.path)}: {picture.size[1]}x{picture.size[0]}"
        for split, picture in usable
        if max(picture.size) >= LONG * min(picture.size)
    )
    if long:
        description = "images of which the middle square is at most half; letterbox=True shows them whole"
        yield Finding("note", "long image", description, long)


def row_of_split(pictures: Sequence[Picture], common: dict[str, object]) -> dict[str, object]:
    """The table's row of a split, column -> value. common: the columns that every dataset has."""
    counts = Counter(int(picture.labels.labels.classes) for picture in pictures if picture.size)
    head = {name: common[name] for name in ("images", "unusable")}
    numbers = sorted(counts.values()) or [0]
    spread = f"{numbers[0]} to {numbers[-1]}" if numbers[0] != numbers[-1] else str(numbers[0])
    tail = {name: common[name] for name in ("image sizes", "width / height")}
    return {**head, "classes": len(counts), "images a class": spread, **tail}


CLASS_CHECKS = (dataset_problems, unusual_images, duplicates, _classes, _sizes)
