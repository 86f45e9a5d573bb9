from ultralytics import YOLO

# Initialize the YOLO model
model = YOLO("best.pt")

# Define search space
search_space = {"lr0": (1e-5, 1e-4), "degrees": (0.0, 10.0)}

# Tune hyperparameters
model.tune(
    data="data.yaml", epochs=1, iterations=2, optimizer="AdamW", space=search_space, plots=False, save=False, val=True,
    imgsz=64, batch=8, workers=0, fraction=0.25, warmup_epochs=0,
)  # fmt: skip
