from ultralytics import YOLO

model = YOLO("best.pt")

try:
    results = model("https://ultralytics.com/images/bus.jpg")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
    message = str(error)
    results = model("image.jpg")

try:
    YOLO("yolov8n.pt")
except FileNotFoundError as error:
    weights = str(error)
