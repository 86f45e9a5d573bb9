import numpy as np
import torch
from ultralytics import YOLO
from ultralytics.utils import ops
from ultralytics.utils.metrics import bbox_iou, box_iou

model = YOLO("best.pt")
result = model("image.jpg", verbose=False)[0]
xyxy = result.boxes.xyxy
assert torch.allclose(ops.xyxy2xywh(xyxy), result.boxes.xywh, atol=1e-3)
normalised = ops.xyxy2xywhn(xyxy.clone(), w=64, h=48)
back = ops.xywhn2xyxy(normalised, w=64, h=48)

truth = torch.tensor(np.loadtxt("truth.txt", ndmin=2)[:, 1:], dtype=torch.float32)
ious = box_iou(truth, xyxy)
pairs = ious.argmax(1)
giou = bbox_iou(truth, xyxy[pairs], xywh=False, GIoU=True)
print(ious.max(1).values, giou.squeeze(-1))

# from the coordinates of the network's input to those of the picture
scaled = ops.scale_boxes((64, 64), torch.tensor([[0.0, 8.0, 64.0, 56.0]]), (48, 64))
clipped = ops.clip_boxes(torch.tensor([[-5.0, -5.0, 100.0, 100.0]]), (48, 64))
