import copy

import torch
from ultralytics import YOLO

global_model = YOLO("best.pt")
clients = [copy.deepcopy(global_model) for _ in range(2)]

updates = []
for i, client in enumerate(clients):
    client.train(
        data="data.yaml", epochs=1, imgsz=64, batch=8, workers=0, plots=False, lr0=1e-4, optimizer="SGD",
        warmup_epochs=0, fraction=0.25, seed=i, project="federated", name=f"client_{i}", verbose=False,
    )  # fmt: skip
    updates.append({k: v.detach().cpu().float() for k, v in client.model.state_dict().items()})

average = {k: torch.stack([u[k] for u in updates]).mean(0) for k in updates[0]}
global_model.model.load_state_dict(average)
metrics = global_model.val(data="data.yaml", imgsz=64, plots=False, verbose=False)
distance = max((average[k] - updates[0][k]).abs().max().item() for k in average if "num_batches" not in k)
print(metrics.box.map50, distance)
