"""Iterates over the dataset of the package with a sampler and a collate function of one's own."""

import torch
from torch.utils.data import DataLoader, WeightedRandomSampler
from ultralytics.cfg import get_cfg
from ultralytics.data.build import build_dataloader, build_yolo_dataset
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import DEFAULT_CFG

data = check_det_dataset("data.yaml")
cfg = get_cfg(DEFAULT_CFG, {"imgsz": 64, "task": "detect", "mosaic": 0.0})
dataset = build_yolo_dataset(cfg, data["train"], batch=8, data=data, mode="val", stride=16)
print(len(dataset), data["nc"], data["names"])

has_red = [float((label["cls"] == 0).any()) for label in dataset.labels]
sampler = WeightedRandomSampler(has_red, num_samples=16, generator=torch.Generator().manual_seed(0))


def collate(batch):
    batch = YOLODataset.collate_fn(batch)
    batch["img"] = batch["img"].float() / 255
    return batch


loader = DataLoader(dataset, batch_size=8, sampler=sampler, collate_fn=collate)
red = images = 0
for batch in loader:
    images += len(batch["img"])
    for i in range(len(batch["img"])):
        red += bool((batch["cls"][batch["batch_idx"] == i] == 0).any())

ordinary = build_dataloader(dataset, batch=16, workers=0, shuffle=False)
first = next(iter(ordinary))
print(images, red, first["img"].shape, first["img"].dtype, first["bboxes"].shape, len(ordinary))
