"""What settings name, found and checked: the graph, the dataset and its splits, a legal image side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..config.errors import UserError
from ..config.notes import print_note
from ..config.settings import Settings
from ..ops.letterbox import legal_size, rounding_note
from .formats.dataset_yaml import DataSpec
from .formats.yolo import RowReader, read_row

if TYPE_CHECKING:
    from .dataset import Scan


DEFAULT_DATA = "shapes.yaml"


def class_names(settings: Settings, data: DataSpec) -> dict[int, str]:
    """The classes that a model of these data knows."""
    return {0: "item"} if settings.single_cls else data.names


def find_data(settings: Settings) -> tuple[DataSpec, Settings]:
    """The dataset, and the settings with what the dataset brings along where nobody gave it."""
    from .formats.dataset_yaml import load_data

    if settings.data is None:
        data = load_data(DEFAULT_DATA)
        print(
            f"No data= is given: using the generated dataset 'shapes' in {data.root} (its data.yaml is an example to copy)"
        )
    else:
        data = load_data(settings.data, allow_outside=settings.allow_outside)
    print_note(*data.notes)
    brought = {key: value for key, value in data.settings.items() if key not in settings.given}
    if brought:
        print("Settings of this dataset, where none were given: " + ", ".join(f"{k}={v}" for k, v in brought.items()))
    # a path is kept whole, so that the run can be resumed and its weights validated from any folder
    settings = settings.replace(**brought, data=DEFAULT_DATA if settings.data is None else str(data.path.resolve()))
    if not isinstance(settings.imgsz, int):
        raise UserError(
            f"imgsz={settings.imgsz}: training and validation take one side, for example imgsz={max(settings.imgsz)}."
        )
    return data, settings


def scan_split(data: DataSpec, split: str, settings: Settings, read: RowReader = read_row) -> Scan:
    """Look through a split and print what is in it. read: the task's reader of one row of a label file."""
    from .dataset import scan

    found = scan(
        data,
        split,
        single_cls=settings.single_cls,
        classes=settings.classes,
        read=read,
        fraction=settings.fraction if split == "train" and settings.mode == "train" else 1.0,
    )
    print(
        f"{split:>9}: {len(found.samples)} images, {found.missing + found.empty} backgrounds, {found.unreadable} unreadable, "
        f"{sum(len(sample.labels) for sample in found.samples)} boxes ({data.path})"
    )
    print_note(*found.notes[:20])
    if len(found.notes) > 20:
        print_note(f"... and {len(found.notes) - 20} more")
    return found


def same_classes(known: Mapping[int, str], names: Mapping[int, str], data: DataSpec) -> None:
    """UserError where a model (classes `known`) and data have another number of classes, or the same in another order; a note for other words."""
    if len(names) != len(known):
        raise UserError(
            f"The model knows {len(known)} classes ({', '.join(known.values())}), {data.path} has {len(names)} "
            f"({', '.join(names.values())}). Give the data the model was trained for."
        )
    if names != known:
        if sorted(names.values()) == sorted(known.values()):
            raise UserError(
                f"{data.path} has the model's classes in another order ({', '.join(names.values())}; the model: "
                f"{', '.join(known.values())}). Put the names of the data in the model's order."
            )
        print_note(f"the model calls its classes {', '.join(known.values())}")


def legal_side(settings: Settings, multiple: int) -> Settings:
    """Round imgsz up to a multiple of what the model takes; print a line where that changes it."""
    if text := rounding_note(settings.imgsz, multiple):
        print(text)
    return settings.replace(imgsz=legal_size(settings.imgsz, multiple)[0])
