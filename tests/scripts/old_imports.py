"""Imports of the package's first year."""

import cv2
from ultralytics import YOLO
from ultralytics.yolo.engine.model import YOLO as OldYOLO
from ultralytics.yolo.utils.ops import scale_boxes, xyxy2xywh
from ultralytics.yolo.utils.plotting import Annotator, colors
from ultralytics.yolo.utils.torch_utils import select_device
from ultralytics.yolo.v8.detect import DetectionPredictor

assert OldYOLO is YOLO
device = select_device("cpu")
model = OldYOLO("best.pt")
frame = cv2.imread("image.jpg")
result = model.predict(frame, device=device, hide_labels=False, line_thickness=1)[0]
annotator = Annotator(frame, line_width=1)
for *box, conf, cls in result.boxes.data.tolist():
    annotator.box_label(box, f"{model.names[int(cls)]} {conf:.2f}", color=colors(int(cls), True))
centre = xyxy2xywh(result.boxes.xyxy)[:, :2]
