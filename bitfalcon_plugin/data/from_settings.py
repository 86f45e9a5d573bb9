"""Read what the settings name and check it: the dataset, its splits, its classes, the side of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..config.errors import UserError, raise_problems
from ..config.notes import print_note
from ..config.printable import say
from ..config.settings import Settings
from ..ops.keypoint_layout import KeypointLayout
from ..ops.letterbox import legal_size, rounding_note
from .data_format import DataFormat
from .dataset import Scan
from .formats.dataset_yaml import DataSpec
from .scan_cache import SET_ASIDE

MAX_NOTES = 20  # notes of a split that are printed


def class_names(settings: Settings, data: DataSpec) -> dict[int, str]:
    """Class index -> name of a model that is trained on the dataset."""
    return {0: "item"} if settings.single_cls else data.names


def keypoint_layout(settings: Settings, data: DataSpec) -> KeypointLayout | None:
    """What a model that is trained on the dataset knows of its keypoints; None without keypoints."""
    layout = data.keypoints
    if layout is None or not settings.single_cls:
        return layout
    return replace(layout, names={index: names for index, names in layout.names.items() if index == 0})


def find_data(settings: Settings, form: DataFormat) -> tuple[DataSpec, Settings]:
    """Load the dataset; return it and the settings, in which the dataset's own settings replace defaults.

    form: the form of the task's data.
    """
    if settings.data is None:
        name = form.default
        data = form.load(name, settings)
        say(f"No data= is given: using the generated dataset '{data.path.stem}' in {data.root} (an example to copy)")
    else:
        data = form.load(settings.data, settings)
        name = str(data.path.resolve())  # absolute: a run can be resumed from any folder
    print_note(*data.notes)
    defaults = {key: value for key, value in data.settings.items() if key not in (*settings.given, *data.imposed)}
    if defaults:
        say("Settings of this dataset, where none were given: " + ", ".join(f"{k}={v}" for k, v in defaults.items()))
    imposed = {key: data.settings[key] for key in data.imposed}
    for key, value in imposed.items():
        if key in settings.given and (given := getattr(settings, key)) != value:
            print_note(f"{key}={given} has no effect with this dataset: it is {value}.")
    settings = settings.replace(**defaults, **imposed, data=name)
    if not isinstance(settings.imgsz, int):
        expected = f"training and validation take one side, for example imgsz={max(settings.imgsz)}"
        raise UserError(f"imgsz={settings.imgsz}: {expected}.")
    return data, settings


def scan_split(data: DataSpec, split: str | float, settings: Settings, form: DataFormat) -> Scan:
    """Scan a split and print what it holds. split: a share of train stands for val. form: that of the task's data."""
    split = split if isinstance(split, str) else "val"
    training = split == "train" and settings.mode == "train"
    result = form.scan(data, split, settings, fraction=settings.fraction if training else 1.0)
    say(f"{split:>9}: {form.describe(result)} ({data.path})")
    if settings.on_bad_image == "stop":
        bad = [note for note in result.notes if note.endswith(SET_ASIDE)]
        raise_problems(f"Images of split '{split}' cannot be read (on_bad_image=skip goes on without them):", bad)
    print_note(*result.notes[:MAX_NOTES])
    if len(result.notes) > MAX_NOTES:
        print_note(f"... and {len(result.notes) - MAX_NOTES} more")
    return result


def same_classes(model_names: Mapping[int, str], names: Mapping[int, str], data: DataSpec) -> None:
    """Compare the classes of a model with the `names` of a dataset.

    Raises UserError if their number differs, or if the same names stand in another order. Other names are only noted.
    """
    of_model, of_data = ", ".join(model_names.values()), ", ".join(names.values())
    if len(names) != len(model_names):
        raise UserError(
            f"The model knows {len(model_names)} classes ({of_model}), {data.path} has {len(names)} "
            f"({of_data}). Give the data the model was trained for."
        )
    if names == model_names:
        return
    if sorted(names.values()) == sorted(model_names.values()):
        raise UserError(
            f"{data.path} has the model's classes in another order ({of_data}; the model: {of_model}). "
            "Put the names of the data in the model's order."
        )
    print_note(f"the model calls its classes {of_model}")


def class_numbers(
    model_names: Mapping[int, str], names: Mapping[int, str], data: DataSpec, form: DataFormat
) -> dict[int, int]:
    """Return for each class of a dataset its number in a model.

    names: of the dataset. Where its form or its format finds classes by name the model may know more of them, in
    another order; a note says so. Otherwise `same_classes` compares.
    """
    numbers = {name: index for index, name in model_names.items()}
    by_name = form.by_name or data.format != "yolo"
    if not by_name or any(name not in numbers for name in names.values()):
        same_classes(model_names, names, data)
        return {index: index for index in names}
    if names != model_names:
        more = f"{len(names)} of the model's {len(model_names)} classes" if len(names) < len(numbers) else "the classes"
        print_note(f"{data.path} has {more}; they are matched by name.")
    return {index: numbers[name] for index, name in names.items()}


def same_keypoints(of_model: KeypointLayout | None, data: DataSpec) -> None:
    """Raise UserError where a model gives other keypoints than the labels of a dataset have.

    of_model: None for a model without keypoints, which any dataset measures. Only other names are noted.
    """
    if of_model is None or data.keypoints is None:
        return
    if of_model.shape != data.keypoints.shape:
        raise UserError(
            f"The model gives keypoints of kpt_shape: {list(of_model.shape)}, {data.path} has kpt_shape: "
            f"{list(data.keypoints.shape)}. Give the data the model was trained for."
        )
    names, own = data.keypoints.names, of_model.names
    if names and own and names != own:
        print_note(f"the model calls its keypoints {', '.join(next(iter(own.values())))}")


def legal_side(settings: Settings, multiple: int) -> Settings:
    """Round imgsz up to a `multiple` of pixels that the model takes; print a line if imgsz changes."""
    if text := rounding_note(settings.imgsz, multiple):
        say(text)
    return settings.replace(imgsz=legal_size(settings.imgsz, multiple)[0])
