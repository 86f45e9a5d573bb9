"""Tiles of a large picture, detected one by one and joined."""

import numpy as np
import torch
from PIL import Image
from torchvision.ops import batched_nms
from ultralytics import YOLO

model = YOLO("best.pt")
large = np.asarray(Image.open("large.jpg"))[:, :, ::-1]
height, width = large.shape[:2]
th, tw, step_y, step_x = 48, 64, 24, 32

tiles, offsets = [], []
for y in range(0, height - th + 1, step_y):
    for x in range(0, width - tw + 1, step_x):
        tiles.append(large[y : y + th, x : x + tw])
        offsets.append((x, y))

boxes, scores, classes = [], [], []
for (x, y), result in zip(offsets, model(tiles, batch=8, imgsz=64, conf=0.5, verbose=False)):
    boxes.append(result.boxes.xyxy + torch.tensor([x, y, x, y]))
    scores.append(result.boxes.conf)
    classes.append(result.boxes.cls)
boxes, scores, classes = torch.cat(boxes), torch.cat(scores), torch.cat(classes)
keep = batched_nms(boxes, scores, classes, 0.3)
print(len(tiles), len(boxes), len(keep))
