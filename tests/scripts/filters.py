from ultralytics import YOLO

model = YOLO("best.pt")
model.overrides["conf"] = 0.3  # NMS confidence threshold
model.overrides["iou"] = 0.45  # NMS IoU threshold
model.overrides["agnostic_nms"] = False  # NMS class-agnostic
model.overrides["max_det"] = 1000  # maximum number of detections per image

everything = model.predict("image.jpg", verbose=False)[0]
only_red = model.predict("image.jpg", classes=[0], verbose=False)[0]
some = model.predict("image.jpg", classes=[1, 2, 40], verbose=False)[0]
one = model.predict("image.jpg", max_det=1, augment=True, half=False, line_width=1, verbose=False)[0]
none = model.predict("image.jpg", conf=0.9999, verbose=False)[0]
for r in (everything, only_red, some, one, none):
    print(len(r), r.boxes.cls.unique().tolist())
sure = everything.boxes[everything.boxes.conf > 0.5]
left = everything[everything.boxes.xywh[:, 0] < 32]
