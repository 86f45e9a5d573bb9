"""The forms in which data lie: how each is found, scanned, loaded and augmented, as one table of functions.

A task names the form of its data (tasks.Task.data). The other rooms call these functions and know no form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.errors import UserError
from ..config.settings import Settings

if TYPE_CHECKING:  # predicting needs none of these, so each function imports what it calls
    from .augmentation.augment import Recipe
    from .augmentation.crop_recipe import CropRecipe
    from .dataset import Sample, Scan
    from .formats.coco_labels import Wish
    from .formats.dataset_yaml import DataSpec
    from .formats.yolo import RowReader
    from .loading.crop_loader import CropTrainLoader, CropValLoader
    from .loading.loader import Reading, TrainLoader, ValLoader


@dataclass(frozen=True)
class RowReaders:
    """Readers of one row of a label file: the usual one, and setting -> the one in its place where that is True.

    part: what labels have beside a box (see coco_labels.Wish); a setting that takes another reader makes it optional.
    """

    usual: RowReader
    instead: Mapping[str, RowReader] = field(default_factory=dict)
    part: str = ""

    def chosen(self, settings: Settings) -> RowReader:
        """The reader that the settings choose."""
        return next((read for setting, read in self.instead.items() if getattr(settings, setting)), self.usual)

    def wish(self, settings: Settings, truth: bool = False) -> Wish:
        """What labels of other formats than rows of text must have. truth: as in Wish."""
        from .formats.coco_labels import Wish

        optional = self.chosen(settings) is not self.usual
        if not self.part and settings.copy_paste and not truth:
            # objects are pasted along their outlines, where they have some
            return Wish("outlines", True, difficult=settings.difficult, any_format=True)
        return Wish(self.part, optional, truth=truth, difficult=settings.difficult)


@dataclass(frozen=True)
class DataFormat:
    """One form of data.

    default: the value of data= where none is given. load: (value of data=, Settings) -> DataSpec. scan: (DataSpec,
    split, Settings, fraction=) -> Scan. describe: Scan -> what it holds, in words. recipe: (Settings, closed) -> the
    augmentations of an epoch, where `closed` is as for Recipe.closed. train_loader: (samples, Reading, Settings,
    multiple) -> the loader of training. val_loader: (samples, Reading, Settings, imgsz=, batch=, multiple=, rect=) ->
    the loader of validation. without_effect: settings that mean nothing to such data -> why. rows: the readers of rows
    of label files, where there are such files. by_name: the classes of a model are found by their names, in any order.
    """

    default: str
    load: Callable[[str | Path, Settings], DataSpec]
    scan: Callable[..., Scan]
    describe: Callable[[Scan], str]
    recipe: Callable[[Settings, bool], Recipe | CropRecipe]
    train_loader: Callable[[Sequence[Sample], Reading, Settings, int], TrainLoader | CropTrainLoader]
    val_loader: Callable[..., ValLoader | CropValLoader]
    without_effect: Mapping[str, str] = field(default_factory=dict)
    rows: RowReaders | None = None
    by_name: bool = False


def label_files(
    default: str, read: RowReader, instead: Mapping[str, RowReader] | None = None, part: str = ""
) -> DataFormat:
    """Images with labels, and a YAML that lists them. read, instead, part: as in RowReaders."""
    rows = RowReaders(read, instead or {}, part)
    return DataFormat(
        default=default,
        load=_load_yaml,
        scan=partial(_scan_label_files, rows),
        describe=_describe_label_files,
        recipe=_recipe,
        train_loader=_train_loader,
        val_loader=_val_loader,
        without_effect={
            **dict.fromkeys(("auto_augment", "erasing", "letterbox"), "it is for images in class folders"),
            "dropout": "it is for classifiers",
        },
        rows=rows,
    )


def keypoint_files(default: str) -> DataFormat:
    """Images with a label file of boxes and keypoints each, and a YAML that lists them and describes the keypoints."""
    from .formats.pose_rows import read_pose

    return replace(label_files(default, read_pose, part="keypoints"), load=_load_keypoint_yaml)


def rectangle_files(default: str) -> DataFormat:
    """Images with a label file of oriented boxes each, and a YAML that lists them."""
    from .formats.obb_rows import read_obb

    form = label_files(default, read_obb, part="corners")
    return replace(form, scan=partial(_scan_rectangles, form.scan))


def _load_yaml(data: str | Path, settings: Settings) -> DataSpec:
    from .formats.dataset_yaml import load_data

    if not isinstance(settings.split, str):
        raise UserError(
            f"split={settings.split}: a share is for class folders, and shares for the verb data; the splits of data "
            "with label files stand in its YAML. Give split=train, val or test, or nothing."
        )
    return load_data(data, allow_outside=settings.allow_outside)


def _load_keypoint_yaml(data: str | Path, settings: Settings) -> DataSpec:
    from .formats.coco_labels import Wish
    from .formats.dataset_yaml import refuse_wrong_files
    from .formats.keypoint_notes import layout_notes, no_keypoints
    from .label_sources import refuse

    spec = _load_yaml(data, settings)
    refuse(spec, Wish("keypoints"))
    if spec.keypoints is None:
        if spec.format == "coco":  # its files say the keypoints, as far as they can be read
            refuse_wrong_files(spec)
        raise UserError(no_keypoints(spec.path, spec.format))
    mirrors_off = {"fliplr": 0.0, "flipud": 0.0} if spec.keypoints.flip is None else {}
    notes = (*spec.notes, *layout_notes(spec.keypoints))
    return replace(spec, notes=notes, settings={**spec.settings, **mirrors_off}, imposed=tuple(mirrors_off))


def _scan_label_files(
    rows: RowReaders, data: DataSpec, split: str, settings: Settings, *, fraction: float = 1.0
) -> Scan:
    from .dataset import scan

    chosen = {"classes": settings.classes, "fraction": fraction, "read": rows.chosen(settings)}
    chosen["wish"] = rows.wish(settings, truth=split != "train" or settings.mode == "val")
    in_tiles = settings.tile is not None and settings.mode == "val"
    return scan(data, split, single_cls=settings.single_cls, large=in_tiles, **chosen)


def _scan_rectangles(scan_files: Callable[..., Scan], *arguments: object, fraction: float = 1.0) -> Scan:
    from .dataset import PackedSamples
    from .formats.obb_rows import as_rectangles

    result = scan_files(*arguments, fraction=fraction)
    labels = (as_rectangles(sample.labels, sample.size) for sample in result.samples)
    samples = (replace(sample, labels=each) for sample, each in zip(result.samples, labels, strict=True))
    return replace(result, samples=PackedSamples(samples))


def _describe_label_files(result: Scan) -> str:
    boxes = sum(len(sample.labels) for sample in result.samples)
    outlines = f", {result.polygons} of them outlined" if 0 < result.polygons < boxes else ""
    return (
        f"{len(result.samples)} images, {result.missing + result.empty} backgrounds, {result.unreadable} unreadable, "
        f"{boxes} boxes{outlines}"
    )


def _recipe(settings: Settings, closed: bool) -> Recipe:
    from .augmentation.augment import recipe_of

    return recipe_of(settings, closed)


def _train_loader(samples: Sequence[Sample], reading: Reading, settings: Settings, multiple: int) -> TrainLoader:
    from .loading.loader import TrainLoader

    from_settings = {name: getattr(settings, name) for name in ("imgsz", "batch", "seed", "rect", "multi_scale")}
    return TrainLoader(samples, reading, multiple=multiple, **from_settings)


def _val_loader(
    samples: Sequence[Sample],
    reading: Reading,
    settings: Settings,
    *,
    imgsz: int,
    batch: int,
    multiple: int,
    rect: bool = True,
) -> ValLoader:
    from .loading.loader import ValLoader

    return ValLoader(samples, reading, imgsz=imgsz, batch=batch, multiple=multiple, rect=rect)


def _load_class_folders(data: str | Path, settings: Settings) -> DataSpec:
    from .formats.class_folders import load_class_folders

    share = None if isinstance(settings.split, str) else settings.split
    if isinstance(share, tuple):
        raise UserError(f"split={share}: of class folders give the share of train alone, split={share[0]:g} .")
    return load_class_folders(data, share=share, allow_outside=settings.allow_outside)


def _scan_class_folders(data: DataSpec, split: str, settings: Settings, *, fraction: float = 1.0) -> Scan:
    from .class_dataset import scan_classes

    options = {"single_cls": settings.single_cls, "classes": settings.classes, "fraction": fraction}
    return scan_classes(data, split, **options)


def _describe_class_folders(result: Scan) -> str:
    from .class_dataset import describe_classes

    return describe_classes(result)


def _crop_recipe(settings: Settings, closed: bool) -> CropRecipe:
    from .augmentation.crop_recipe import crop_recipe_of

    return crop_recipe_of(settings, closed)


def _crop_train_loader(
    samples: Sequence[Sample], reading: Reading, settings: Settings, multiple: int
) -> CropTrainLoader:
    from .loading.crop_loader import CropTrainLoader

    return CropTrainLoader(samples, reading, imgsz=settings.imgsz, batch=settings.batch, seed=settings.seed)


def _crop_val_loader(
    samples: Sequence[Sample],
    reading: Reading,
    settings: Settings,
    *,
    imgsz: int,
    batch: int,
    multiple: int,
    rect: bool = True,
) -> CropValLoader:
    from .loading.crop_loader import CropValLoader

    return CropValLoader(samples, reading, imgsz=imgsz, batch=batch, letterbox=settings.letterbox)


CLASS_FOLDERS = DataFormat(
    default="shapes-cls.yaml",
    load=_load_class_folders,
    scan=_scan_class_folders,
    describe=_describe_class_folders,
    recipe=_crop_recipe,
    train_loader=_crop_train_loader,
    val_loader=_crop_val_loader,
    by_name=True,
    without_effect=dict.fromkeys(
        (
            "degrees translate shear perspective mosaic mixup cutmix copy_paste copy_paste_mode close_mosaic bgr rect "
            "multi_scale"
        ).split(),
        "images are cropped and coloured, as scale, auto_augment and erasing say",
    ),
)
"""Images in a folder for each class."""
