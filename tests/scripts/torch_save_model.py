import torch
from ultralytics import YOLO

model = YOLO("best.pt")
before = model("image.jpg", verbose=False)[0].boxes.data

# the whole object
torch.save(model, "whole.pt")
whole = torch.load("whole.pt", weights_only=False)
after = whole("image.jpg", verbose=False)[0].boxes.data

# by the method
model.save("saved.pt")
again = YOLO("saved.pt")("image.jpg", verbose=False)[0].boxes.data

# state dict
torch.save(model.state_dict(), "state.pt")
other = YOLO("small.yaml")
other.load_state_dict(torch.load("state.pt"))
inner = model.model.state_dict()
print(len(inner), next(iter(inner)), next(iter(model.state_dict())))
reopened = YOLO("whole.pt")("image.jpg", verbose=False)[0].boxes.data
