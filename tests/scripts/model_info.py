import torch
import ultralytics
from ultralytics import YOLO

ultralytics.checks()
print(ultralytics.__version__)

model = YOLO("best.pt")
layers, parameters, gradients, flops = model.info()
counted = sum(p.numel() for p in model.parameters())
model.info(detailed=True)
print(model.names, model.task, model.device, model.model.stride, model.model.yaml["nc"], model.ckpt_path)
model.fuse()
fused = len([m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)])
print(model.overrides["imgsz"], model.model.args["imgsz"], type(model.model).__name__, fused)
