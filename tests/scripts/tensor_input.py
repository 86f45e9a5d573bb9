import torch
from torchvision.io import decode_image
from torchvision.transforms.functional import pad
from ultralytics import YOLO

model = YOLO("best.pt")
device = "cuda" if torch.cuda.is_available() else "cpu"
model.to(device)

image = decode_image("image.jpg").float() / 255  # RGB, 0-1
batch = torch.stack([pad(image, [0, 8, 0, 8], fill=114 / 255)] * 2).to(device)
results = model(batch, verbose=False)
for r in results:
    print(r.orig_shape, r.boxes.cls.tolist(), r.boxes.xyxy.round().tolist())
