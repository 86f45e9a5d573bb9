"""A trainer of one's own: frozen batch norms, weighted loss report, and its own weights."""

from copy import copy

import torch
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER, RANK


class CustomTrainer(DetectionTrainer):
    seen = 0
    steps = 0

    def get_model(self, cfg=None, weights=None, verbose=True):
        model = DetectionModel(cfg, nc=self.data["nc"], verbose=verbose and RANK == -1)
        if weights:
            model.load(weights)
        return model

    def preprocess_batch(self, batch):
        batch = super().preprocess_batch(batch)
        type(self).seen += batch["img"].shape[0]
        batch["img"] = (batch["img"] + 0.01 * torch.randn_like(batch["img"])).clamp(0, 1)
        return batch

    def optimizer_step(self):
        type(self).steps += 1
        super().optimizer_step()

    def get_validator(self):
        self.loss_names = "box_loss", "cls_loss", "dfl_loss"
        return DetectionValidator(self.test_loader, save_dir=self.save_dir, args=copy(self.args))

    def plot_training_samples(self, batch, ni):
        LOGGER.info(f"batch {ni}: {len(batch['im_file'])} images, {len(batch['cls'])} labels")


model = YOLO("best.pt")
metrics = model.train(
    trainer=CustomTrainer, data="data.yaml", epochs=1, imgsz=64, batch=8, lr0=1e-5, optimizer="SGD", workers=0,
    warmup_epochs=0, name="custom",
)  # fmt: skip
print(CustomTrainer.seen, CustomTrainer.steps, metrics.box.map50)
