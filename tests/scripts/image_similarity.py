import torch
from ultralytics import YOLO

model = YOLO("best.pt")
paths = ["image.jpg", "photos/0.jpg", "photos/1.jpg", "photos/2.jpg", "photos/3.jpg"]
vectors = torch.stack(model.embed(paths, imgsz=64, verbose=False))
vectors = vectors / vectors.norm(dim=1, keepdim=True)
similarity = vectors @ vectors.T
query = model.embed("photos/2.jpg", imgsz=64, verbose=False)[0]
best = int((vectors @ (query / query.norm())).argmax())
print(vectors.shape, paths[best])
