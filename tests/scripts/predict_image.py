"""Detect the objects of one image and save the picture with boxes."""

from ultralytics import YOLO

# Load a model
model = YOLO("best.pt")

# Run batched inference on a list of images
results = model(["image.jpg"])

# Process results list
for result in results:
    boxes = result.boxes  # Boxes object for bounding box outputs
    masks = result.masks  # Masks object for segmentation masks outputs
    keypoints = result.keypoints  # Keypoints object for pose outputs
    probs = result.probs  # Probs object for classification outputs
    obb = result.obb
    print(boxes)
    for xyxy, conf, cls in zip(boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist()):
        print(result.names[int(cls)], round(conf, 2), [round(v) for v in xyxy])
    result.save(filename="result.jpg")  # save to disk
