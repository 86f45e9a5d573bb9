from pathlib import Path

from ultralytics import YOLO

model = YOLO("best.pt")

# the crops of the package
for r in model.predict("image.jpg", conf=0.4):
    r.save_crop(save_dir="crops", file_name="detection")

# and by hand
results = model("image.jpg")
for i, box in enumerate(results[0].boxes.xyxy.cpu().numpy().astype(int)):
    x1, y1, x2, y2 = box
    crop = results[0].orig_img[y1:y2, x1:x2]
    print(i, results[0].names[int(results[0].boxes.cls[i])], crop.shape, crop.mean(axis=(0, 1)).round())

print(sorted(str(p) for p in Path("crops").rglob("*.jpg")))
