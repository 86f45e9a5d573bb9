"""Start a larger graph with the weights that fit, and train only the new part first."""

from ultralytics import YOLO

model = YOLO("larger.yaml").load("best.pt")  # build from YAML and transfer weights
old = YOLO("best.pt").model.state_dict()
new = model.model.state_dict()
same = [k for k, v in new.items() if k in old and v.shape == old[k].shape and (v == old[k]).all()]
print(f"{len(same)}/{len(new)} tensors are from best.pt")

results = model.train(
    data="data.yaml", epochs=1, imgsz=64, batch=8, workers=0, plots=False, fraction=0.25, name="larger"
)
