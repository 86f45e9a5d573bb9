"""Balances classes: images with rare classes are drawn more often."""

import numpy as np
import ultralytics.data.build as build
from ultralytics import YOLO
from ultralytics.data.dataset import YOLODataset


class YOLOWeightedDataset(YOLODataset):
    drawn = []

    def __init__(self, *args, mode="train", **kwargs):
        super().__init__(*args, **kwargs)
        self.train_mode = "train" in self.prefix
        self.count_instances()
        class_weights = np.sum(self.counts) / np.maximum(self.counts, 1)
        self.agg_func = np.mean
        self.class_weights = np.array(class_weights)
        self.weights = self.calculate_weights()
        self.probabilities = self.calculate_probabilities()

    def count_instances(self):
        self.counts = [0 for i in range(len(self.data["names"]))]
        for label in self.labels:
            cls = label["cls"].reshape(-1).astype(int)
            for id in cls:
                self.counts[id] += 1
        self.counts = np.array(self.counts)

    def calculate_weights(self):
        weights = []
        for label in self.labels:
            cls = label["cls"].reshape(-1).astype(int)
            # Give a default weight to background class
            if cls.size == 0:
                weights.append(1)
                continue
            weight = self.agg_func(self.class_weights[cls])
            weights.append(weight)
        return weights

    def calculate_probabilities(self):
        total_weight = sum(self.weights)
        return [w / total_weight for w in self.weights]

    def __getitem__(self, index):
        # Don't use for validation
        if not self.train_mode:
            return self.transforms(self.get_image_and_label(index))
        index = np.random.choice(len(self.labels), p=self.probabilities)
        self.drawn.append(index)
        return self.transforms(self.get_image_and_label(index))


build.YOLODataset = YOLOWeightedDataset

model = YOLO("best.pt")
model.train(
    data="data.yaml", epochs=1, imgsz=64, batch=8, workers=0, lr0=1e-5, optimizer="SGD", warmup_epochs=0, mosaic=0.0,
    plots=False, name="weighted",
)  # fmt: skip
print(len(YOLOWeightedDataset.drawn), model.metrics)
