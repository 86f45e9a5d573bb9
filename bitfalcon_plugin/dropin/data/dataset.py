"""Datasets of labels in text files, and of folders that are classes. Facts: spec/dropin-helpers.md section 8."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset

from ...data.images import IMAGE_SUFFIXES
from ..utils import DEFAULT_CFG, LOGGER
from ..utils.instance import Instances
from .augment import Compose, Format, LetterBox, classify_augmentations, classify_transforms, v8_transforms
from .base import BaseDataset
from .labels import Found, find
from .transform import Labels
from .utils import img2label_paths

__all__ = ["BaseDataset", "ClassificationDataset", "YOLOConcatDataset", "YOLODataset"]

DATASET_CACHE_VERSION = "1.0.3"  # of files of labels, which are not written here
MAX_NOTES = 20  # notes that are printed
STACKED = ("img", "text_feats", "visuals", "sem_masks")  # keys whose tensors are stacked; CONCATENATED are put together
CONCATENATED = ("masks", "keypoints", "bboxes", "cls", "segments", "obb")


class YOLODataset(BaseDataset):
    """Images and labels for detection, segmentation, pose and oriented boxes.

    data: a dict with names, and for pose kpt_shape. task: "detect", "segment", "pose" or "obb". Raises
    FileNotFoundError for a path without images, and ValueError for labels of another kind than the task's.
    """

    def __init__(self, *args: Any, data: dict[str, Any] | None = None, task: str = "detect", **kwargs: Any) -> None:
        if data is None:
            raise TypeError("YOLODataset needs data=, a dict with 'names'; check_det_dataset('data.yaml') returns one")
        self.use_segments, self.use_keypoints, self.use_obb = (task == name for name in ("segment", "pose", "obb"))
        self.data, self.task = data, task
        super().__init__(*args, **kwargs)

    def get_labels(self) -> list[Labels]:
        """Read the label files; images with wrong labels are left out, and said."""
        self.label_files = img2label_paths(self.im_files)
        cache = self.cache_labels()
        labels = cache["labels"]
        if not labels:
            raise RuntimeError(f"{self.prefix}No usable image in {self.img_path}; see the notes above.")
        self.im_files = [label["im_file"] for label in labels]
        self.label_files = img2label_paths(self.im_files)
        self._check_kinds(labels)
        if not any(len(label["cls"]) for label in labels):
            where = self.label_files[0]
            message = f"{self.prefix}No labels for {self.img_path}; the first was looked for at '{where}'."
            if self.augment:
                raise ValueError(message)
            LOGGER.warning(message)
        return labels

    def cache_labels(self, path: Path = Path("./labels.cache")) -> dict[str, Any]:
        """Read all label files, and return labels, results (found, missing, empty, corrupt, total) and msgs.

        Nothing is written to `path`: label files are read anew, which is quick.
        """
        shape = tuple(self.data["kpt_shape"]) if self.use_keypoints else None
        count = None if self.single_cls else len(self.data["names"])
        found = find(self.im_files, self.label_files, nc=count, kpt_shape=shape)
        usable = [each for each in found if each.usable]
        messages = [line for each in found for line in (*each.problems, *each.notes)]
        for line in messages[:MAX_NOTES]:
            LOGGER.warning(f"{self.prefix}{line}")
        if len(messages) > MAX_NOTES:
            LOGGER.warning(f"{self.prefix}... and {len(messages) - MAX_NOTES} more")
        missing = sum(not each.has_file for each in usable)
        empty = sum(each.has_file and not len(each.rows) for each in usable)
        corrupt = len(found) - len(usable)
        LOGGER.info(f"{self.prefix}{len(found)} images, {missing + empty} backgrounds, {corrupt} corrupt")
        results = (len(usable) - missing, missing, empty, corrupt, len(found))
        return {"labels": [_label(each) for each in usable], "results": results, "msgs": messages, "hash": ""}

    def _check_kinds(self, labels: Sequence[Labels]) -> None:
        """Raise ValueError where the task needs outlines that are missing; drop outlines where only some have one."""
        boxes = sum(len(label["cls"]) for label in labels)
        outlines = sum(len(label["segments"]) for label in labels)
        if (self.use_segments or self.use_obb) and boxes != outlines:
            raise ValueError(
                f"{self.prefix}task={self.task} needs an outline for each object: {boxes} objects have {outlines} "
                "outlines. Rows are `class x1 y1 x2 y2 x3 y3 ...`."
            )
        if outlines and boxes != outlines:
            LOGGER.warning(f"{self.prefix}{outlines} of {boxes} objects have an outline: only boxes are used.")
            for label in labels:
                label["segments"] = []

    def build_transforms(self, hyp: Any = None) -> Compose:
        """The augmentation of a training, or the letterbox of a validation; then tensors."""
        hyp = copy.copy(DEFAULT_CFG if hyp is None else hyp)
        if self.augment:
            if self.rect:
                hyp.mosaic = hyp.mixup = hyp.cutmix = 0.0
            transforms = v8_transforms(self, self.imgsz, hyp)
        else:
            transforms = Compose([LetterBox(new_shape=(self.imgsz, self.imgsz), scaleup=False)])
        transforms.append(
            Format(
                bbox_format="xywh",
                normalize=True,
                return_mask=self.use_segments,
                return_keypoint=self.use_keypoints,
                return_obb=self.use_obb,
                batch_idx=True,
                mask_ratio=getattr(hyp, "mask_ratio", 4),
                mask_overlap=getattr(hyp, "overlap_mask", True),
                bgr=getattr(hyp, "bgr", 0.0) if self.augment else 0.0,
            )
        )
        return transforms

    def close_mosaic(self, hyp: Any) -> None:
        """Build the transforms anew, without mosaic and all that takes parts of other images in."""
        hyp = copy.copy(hyp)
        hyp.mosaic = hyp.mixup = hyp.cutmix = hyp.copy_paste = 0.0
        self.transforms = self.build_transforms(hyp)

    def update_labels_info(self, label: Labels) -> Labels:
        """Put boxes, outlines and keypoints of a label together as `instances`."""
        boxes, segments = label.pop("bboxes"), label.pop("segments", [])
        form, normalized = label.pop("bbox_format"), label.pop("normalized")
        label["instances"] = Instances(boxes, segments, label.pop("keypoints", None), form, normalized)
        return label

    @staticmethod
    def collate_fn(batch: Sequence[Labels]) -> dict[str, Any]:
        """Put the dicts of images together: images stacked, labels one behind the other, batch_idx their image."""
        keys = batch[0].keys()
        columns = {key: [labels[key] for labels in batch] for key in keys}
        new: dict[str, Any] = {}
        for key, values in columns.items():
            if key in STACKED:
                new[key] = torch.stack(values, 0)
            elif key in CONCATENATED:
                new[key] = torch.cat(values, 0)
            elif key == "batch_idx":
                new[key] = torch.cat([value + number for number, value in enumerate(values)], 0)
            else:
                new[key] = tuple(values)
        return new


def _label(found: Found) -> Labels:
    return {
        "im_file": found.image,
        "shape": found.size,
        "cls": found.rows[:, :1],
        "bboxes": found.rows[:, 1:],
        "segments": found.segments,
        "keypoints": found.keypoints,
        "normalized": True,
        "bbox_format": "xywh",
    }


class ClassificationDataset(Dataset):
    """Pictures in folders that are the classes. root: the folder of these folders. args: the settings.

    samples: for each picture its path and class. `dataset[i]`: {"img": (3, s, s), "cls": class}.
    """

    def __init__(self, root: str, args: Any, augment: bool = False, prefix: str = "") -> None:
        self.root, self.prefix = root, prefix
        folders = sorted(path for path in Path(root).iterdir() if path.is_dir() and not path.name.startswith("."))
        if not folders:
            raise FileNotFoundError(f"'{root}' has no folders; expected one for each class")
        self.classes = [folder.name for folder in folders]
        self.samples = [
            (str(path), number)
            for number, folder in enumerate(folders)
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in IMAGE_SUFFIXES
        ]
        if augment and args.fraction < 1:
            self.samples = self.samples[: round(len(self.samples) * args.fraction)]
        if augment:
            options = {name: getattr(args, name) for name in ("hsv_h", "hsv_s", "hsv_v", "erasing", "auto_augment")}
            self.torch_transforms = classify_augmentations(
                size=args.imgsz, scale=(1.0 - args.scale, 1.0), hflip=args.fliplr, vflip=args.flipud, **options
            )
        else:
            self.torch_transforms = classify_transforms(size=args.imgsz)

    def __getitem__(self, i: int) -> dict[str, Any]:
        path, number = self.samples[i]
        with Image.open(path) as picture:
            return {"img": self.torch_transforms(picture.convert("RGB")), "cls": number}

    def __len__(self) -> int:
        return len(self.samples)


class YOLOConcatDataset(ConcatDataset):
    """Several datasets one behind the other."""

    collate_fn = staticmethod(YOLODataset.collate_fn)

    def close_mosaic(self, hyp: Any) -> None:
        """Build the transforms of all datasets anew, without mosaic."""
        for dataset in self.datasets:
            if hasattr(dataset, "close_mosaic"):
                dataset.close_mosaic(hyp)
