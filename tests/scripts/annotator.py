import cv2
from ultralytics import YOLO
from ultralytics.utils.plotting import Annotator, colors

model = YOLO("best.pt")
img = cv2.imread("image.jpg")
results = model.predict(img)

for r in results:
    annotator = Annotator(img, line_width=1, example=str(model.names))

    boxes = r.boxes
    for box in boxes:
        b = box.xyxy[0]  # get box coordinates in (left, top, right, bottom) format
        c = box.cls
        annotator.box_label(b, model.names[int(c)], color=colors(int(c), True))

img = annotator.result()
cv2.imwrite("annotated.png", img)
palette = [colors(i) for i in range(3)]
