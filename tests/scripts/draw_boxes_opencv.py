import cv2
import numpy as np
from ultralytics import YOLO

model = YOLO("best.pt")
image = cv2.imread("image.jpg")
results = model.predict(source=image, conf=0.4, save=False)

detections = results[0].boxes.data.cpu().numpy()
colors = np.random.default_rng(42).integers(0, 255, size=(len(model.names), 3), dtype="uint8")
for x1, y1, x2, y2, score, class_id in detections:
    x1, y1, x2, y2 = int(x1), int(y1), int(x2), int(y2)
    color = [int(c) for c in colors[int(class_id)]]
    cv2.rectangle(image, (x1, y1), (x2, y2), color, 2)
    label = f"{results[0].names[int(class_id)]}: {score:.2f}"
    cv2.putText(image, label, (x1, y1 - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1)

cv2.imwrite("output.png", image)
print(f"{len(detections)} objects")
