import numpy as np
import supervision as sv
from PIL import Image
from ultralytics import YOLO

model = YOLO("best.pt")
image = np.asarray(Image.open("image.jpg"))[:, :, ::-1]

polygons = [np.array([[0, 0], [32, 0], [32, 48], [0, 48]]), np.array([[32, 0], [64, 0], [64, 48], [32, 48]])]
zones = [sv.PolygonZone(polygon=polygon, triggering_anchors=(sv.Position.CENTER,)) for polygon in polygons]

results = model(image, verbose=False)[0]
detections = sv.Detections.from_ultralytics(results)
detections = detections[detections.confidence > 0.4]

box_annotator = sv.BoxAnnotator(thickness=1)
label_annotator = sv.LabelAnnotator(text_scale=0.3)
labels = [f"{model.model.names[class_id]} {confidence:0.2f}"
          for class_id, confidence in zip(detections.class_id, detections.confidence)]  # fmt: skip

frame = image.copy()
frame = box_annotator.annotate(scene=frame, detections=detections)
frame = label_annotator.annotate(scene=frame, detections=detections, labels=labels)
inside = []
for zone in zones:
    mask = zone.trigger(detections=detections)
    inside.append(sorted(detections.data["class_name"][mask]))
print([zone.current_count for zone in zones], inside)
