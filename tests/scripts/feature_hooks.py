import torch
from ultralytics import YOLO

model = YOLO("best.pt")
features = {}


def hook(name):
    def fn(module, inputs, output):
        features[name] = output.detach()

    return fn


handles = []
for m in model.model.model[:-1]:
    handles.append(m.register_forward_hook(hook(f"{m.i}_{m.type.split('.')[-1]}")))

model.predict("image.jpg", verbose=False)
for h in handles:
    h.remove()
for name, tensor in features.items():
    print(name, tuple(tensor.shape))

head = model.model.model[-1]
print(type(head).__name__, head.nc, head.nl, head.stride.tolist(), head.f)

# Raw outputs
with torch.no_grad():
    raw = model.model(torch.zeros(1, 3, 64, 64))
print(raw[0].shape)
