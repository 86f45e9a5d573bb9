"""Datasets, loaders and transforms under the names that scripts import. Facts: spec/dropin-helpers.md section 8."""

from .base import BaseDataset
from .build import build_dataloader, build_yolo_dataset, load_inference_source
from .dataset import ClassificationDataset, YOLOConcatDataset, YOLODataset

__all__ = [
    "BaseDataset",
    "ClassificationDataset",
    "YOLOConcatDataset",
    "YOLODataset",
    "build_dataloader",
    "build_yolo_dataset",
    "load_inference_source",
]
