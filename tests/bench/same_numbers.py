"""Print digests of what training and predicting compute, to compare two versions of the code bit for bit.

By hand, once with each version and the same files, on one machine:
python tests/bench/same_numbers.py WEIGHTS.pt data.yaml

Two epochs of fine-tuning at 320 px and a prediction on the validation images. Lines: the input batches, the losses, the
gradients of each optimizer step, the weights at the end, the boxes and the COCO numbers. Equal lines are equal tensors.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from bitfalcon_plugin import YOLO


class Digest:
    """A SHA-256 over tensors in the order in which they are added."""

    def __init__(self):
        self.hash, self.count = hashlib.sha256(), 0

    def add(self, tensor: torch.Tensor) -> None:
        self.hash.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        self.count += 1

    def __str__(self) -> str:
        return f"{self.hash.hexdigest()[:32]} ({self.count} tensors)"


def main() -> None:
    weights, data = sys.argv[1:3]
    torch.set_num_threads(1)
    digests = {name: Digest() for name in ("batches", "losses", "gradients", "weights", "boxes", "metrics")}

    def watch_batches(trainer) -> None:
        trainer.model.register_forward_pre_hook(
            lambda module, inputs: digests["batches"].add(inputs[0]) if module.training else None
        )

    def watch_losses(trainer) -> None:
        digests["losses"].add(trainer.loss_items)

    def watch_gradients(trainer) -> None:
        for parameter in trainer.model.parameters():
            if parameter.grad is not None:
                digests["gradients"].add(parameter.grad)

    yolo = YOLO(weights)
    yolo.add_callback("on_train_start", watch_batches)
    yolo.add_callback("on_train_batch_end", watch_losses)
    yolo.add_callback("optimizer_step", watch_gradients)
    with tempfile.TemporaryDirectory() as folder:
        options = {"epochs": 2, "imgsz": 320, "batch": 8, "seed": 0, "workers": 0, "device": "cpu", "plots": False}
        augmentations = {"mosaic": 1.0, "mixup": 0.3, "copy_paste": 0.3, "degrees": 5.0, "fliplr": 0.5}
        metrics = yolo.train(data=data, project=folder, name="run", **options, **augmentations)
        for tensor in YOLO(Path(folder, "run", "weights", "last.pt")).model.state_dict().values():
            digests["weights"].add(tensor)
        digests["metrics"].add(torch.tensor(list(metrics.results_dict.values()), dtype=torch.float64))
    document = yaml.safe_load(Path(data).read_text())
    images = Path(data).parent / document.get("path", ".") / document["val"]
    for result in YOLO(weights).predict(str(images), imgsz=320, conf=0.05, device="cpu"):
        digests["boxes"].add(result.boxes.data)
    for name, digest in digests.items():
        print(f"{name:<10} {digest}")


if __name__ == "__main__":
    main()
