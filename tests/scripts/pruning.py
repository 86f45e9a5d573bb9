import torch
from torch import nn
from torch.nn.utils import prune
from ultralytics import YOLO


def sparsity(model):
    # Return global model sparsity
    a, b = 0, 0
    for p in model.parameters():
        a += p.numel()
        b += (p == 0).sum()
    return b / a


def prune_model(model, amount=0.3):
    for name, m in model.named_modules():
        if isinstance(m, nn.Conv2d) and "dfl" not in name:
            prune.l1_unstructured(m, name="weight", amount=amount)
            prune.remove(m, "weight")  # make permanent
    return model


yolo = YOLO("best.pt")
before = yolo.val(data="data.yaml", imgsz=64, plots=False, verbose=False).box.map50
torch_model = prune_model(yolo.model, 0.1)
pruned = float(sparsity(torch_model))
print(f"Model pruned to {pruned:.3g} global sparsity")
after = yolo.val(data="data.yaml", imgsz=64, plots=False, verbose=False).box.map50
prune_model(yolo.model, 0.98)
broken = yolo.val(data="data.yaml", imgsz=64, plots=False, verbose=False).box.map50

ckpt = {"model": torch_model, "train_args": {}}
torch.save(ckpt["model"].state_dict(), "pruned_state.pt")
print(before, after, broken)
