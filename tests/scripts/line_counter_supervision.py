import cv2
import supervision as sv
from ultralytics import YOLO

LINE_START = sv.Point(32, 0)
LINE_END = sv.Point(32, 48)

model = YOLO("best.pt")
line_counter = sv.LineZone(start=LINE_START, end=LINE_END)
line_annotator = sv.LineZoneAnnotator(thickness=1, text_scale=0.3)
box_annotator = sv.BoxAnnotator(thickness=1)
shown = 0

for result in model.track(
    source="frames", show=False, stream=True, persist=True, tracker="bytetrack.yaml", verbose=False
):
    frame = result.orig_img
    detections = sv.Detections.from_ultralytics(result)

    if result.boxes.id is not None:
        detections.tracker_id = result.boxes.id.cpu().numpy().astype(int)

    frame = box_annotator.annotate(scene=frame.copy(), detections=detections)
    line_counter.trigger(detections=detections)
    line_annotator.annotate(frame=frame, line_counter=line_counter)
    cv2.imwrite(f"counted_{shown:03d}.png", frame)
    shown += 1

print(f"in {line_counter.in_count} out {line_counter.out_count}")
