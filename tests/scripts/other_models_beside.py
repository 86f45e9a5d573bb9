import argparse

from ultralytics import NAS, RTDETR, SAM, YOLO, YOLOWorld, hub
from ultralytics.models.fastsam import FastSAMPredictor

MODELS = {"yolo": YOLO, "rtdetr": RTDETR, "nas": NAS, "world": YOLOWorld, "sam": SAM}

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="yolo", choices=MODELS)
parser.add_argument("--weights", default="best.pt")
args = parser.parse_args()

model = MODELS[args.model](args.weights)
print(isinstance(model, RTDETR), isinstance(model, YOLO))
results = model("image.jpg", verbose=False)
print(len(results[0]))
