"""The loop of a webcam demo, over a folder of frames: draw, count, show frames per second, save what was seen."""

import os
import time

from ultralytics import YOLO

SOURCE = "frames"  # a webcam would be 0

model = YOLO("best.pt", task="detect")
model.overrides["conf"] = 0.25
model.overrides["max_det"] = 50
os.makedirs("shown", exist_ok=True)

counts = dict.fromkeys(model.names.values(), 0)
started, frames = time.time(), 0
for result in model.predict(source=SOURCE, stream=True, imgsz=64, device="cpu", verbose=False):
    frame = result.plot(line_width=1, labels=True, conf=True)
    for box in result.boxes:
        x1, y1, x2, y2 = map(int, box.xyxy[0])
        name = model.names[int(box.cls[0])]
        counts[name] += 1
        crop = frame[y1:y2, x1:x2]
        print(f"{name} {float(box.conf):.2f} {crop.shape[1]}x{crop.shape[0]}")
    if len(result):
        result.save(filename=f"shown/{frames:04d}.jpg")
        result.save_txt("shown/labels.txt", save_conf=True)
    fps = 1000 / max(sum(result.speed.values()), 1e-6)
    print(f"frame {frames}: {len(result)} objects, {fps:.0f} fps")
    frames += 1
    if frames == 12:  # cv2.waitKey(1) == ord("q")
        break

print(counts, f"{frames / (time.time() - started):.1f} frames a second")
