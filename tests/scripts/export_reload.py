from ultralytics import YOLO

model = YOLO("best.pt")
reference = model.predict("image.jpg", imgsz=64, verbose=False)[0]

# Export the model
exported = model.export(format="torchscript", imgsz=(48, 64))
print(f"exported to {exported}")

# Load the exported model and run inference
ts_model = YOLO(exported, task="detect")
result = ts_model("image.jpg", imgsz=(48, 64), verbose=False)[0]

difference = (reference.boxes.xyxy - result.boxes.xyxy).abs().max().item()
print(result.names, difference)

try:
    ts_model.train(data="data.yaml", epochs=1)
except Exception as error:
    refused = f"{type(error).__name__}: {error}"
