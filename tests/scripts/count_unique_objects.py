from ultralytics import YOLO

model = YOLO("best.pt")
unique = {}
frames = 0
for r in model.track("frames", stream=True, persist=True, conf=0.3, iou=0.5, classes=[0, 2], verbose=False):
    frames += 1
    if r.boxes.id is None:
        continue
    for track_id, cls in zip(r.boxes.id.int().tolist(), r.boxes.cls.int().tolist()):
        unique.setdefault(r.names[cls], set()).add(track_id)

for name, ids in sorted(unique.items()):
    print(f"{name}: {len(ids)}")
