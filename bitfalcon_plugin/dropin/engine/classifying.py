"""What the trainer, validator and predictor of classification do otherwise (spec/dropin.md section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...predict.results import Results
from ...tasks.class_metrics import class_metrics
from ..data.build import build_dataloader
from ..data.dataset import ClassificationDataset
from ..utils.metrics import ClassifyMetrics
from .measuring import draw
from .overriding import own
from .predictor import BasePredictor, arrays_of
from .trainer import BaseTrainer
from .validator import BaseValidator, opened

FIRST = 5  # classes that are kept of each image, the most probable first


def probabilities_of(preds: Any) -> Tensor:
    """Return outputs as scripts have them, probabilities (B, nc) alone or before the logits, as probabilities."""
    return preds[0] if isinstance(preds, (tuple, list)) else preds


class ClassTrainer(BaseTrainer):
    __doc__ = BaseTrainer.__doc__

    @own
    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Return the dataset of the class folders in a folder; training augments them."""
        return ClassificationDataset(str(img_path), self.args, augment=mode == "train", prefix=mode)

    @own
    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """Return a loader of dicts, img (B, 3, s, s) in [0, 1] and cls (B,), of the class folders in a folder."""
        dataset = self.build_dataset(dataset_path, mode)
        return build_dataloader(dataset, batch_size, 0, shuffle=mode == "train", rank=rank)


class ClassValidator(BaseValidator):
    __doc__ = BaseValidator.__doc__

    @own
    def get_desc(self) -> str:
        """Return the header of the table."""
        return f"{'classes':>22}{'top1_acc':>11}{'top5_acc':>11}"

    @own
    def build_dataset(self, img_path: str, mode: str = "val", batch: int | None = None) -> Any:
        """Return the dataset of the class folders in a folder."""
        return ClassificationDataset(str(img_path), self.args, augment=False, prefix=mode)

    @own
    def get_dataloader(self, dataset_path: str, batch_size: int = 16) -> Any:
        """Return a loader of dicts of the class folders in a folder."""
        return build_dataloader(self.build_dataset(dataset_path), batch_size, 0, shuffle=False)

    @own
    def init_metrics(self, model: nn.Module) -> None:
        """Begin a validation: nothing is seen yet."""
        super().init_metrics(model)
        self.metrics, self.targets, self.pred = ClassifyMetrics(), [], []
        self._probabilities: list[Tensor] = []

    @own
    def postprocess(self, preds: Any) -> Tensor:
        """Return the probabilities (B, nc) of a batch."""
        return probabilities_of(preds)

    @own
    def update_metrics(self, preds: Any, batch: dict[str, Any]) -> None:
        """Keep the true classes of a batch in `targets`, and the first classes (B, k) by probability in `pred`."""
        probabilities, truth = preds.detach().float().cpu(), batch["cls"].flatten().long().cpu()
        self.seen += len(truth)
        self.targets.append(truth)
        self.pred.append(probabilities.argsort(dim=1, descending=True, stable=True)[:, :FIRST])
        self._probabilities.append(probabilities)

    @own
    def get_stats(self) -> dict[str, float]:
        """Return the numbers by name, and keep all of them in `metrics`."""
        if len(self._probabilities) == len(self.targets) and self.targets:
            truth = torch.cat(self.targets)
            self.metrics = opened(class_metrics(torch.cat(self._probabilities), truth, self.names))
            self.confusion_matrix = self.metrics.confusion_matrix
        elif self.targets:  # a script has filled these lists itself
            self.metrics.process(self.targets, self.pred)
        return self.metrics.results_dict

    @own
    def plot_predictions(self, batch: dict[str, Any], preds: Any, ni: int) -> None:
        """Draw val_batch<ni>_pred.jpg."""
        scores, classes = preds.max(1)
        height, width = batch["img"].shape[2:]
        whole = scores.new_tensor([[0.0, 0.0, width, height]]).expand(len(scores), 4)
        rows = torch.cat([whole, scores[:, None], classes[:, None].to(whole)], 1).split(1)
        draw(self, batch, rows, f"val_batch{ni}_pred.jpg", least=0.0)


class ClassPredictor(BasePredictor):
    __doc__ = BasePredictor.__doc__

    @own
    def postprocess(self, preds: Any, img: Tensor, orig_imgs: Any, **kwargs: Any) -> list[Results]:
        """Return the Results of probabilities. orig_imgs: a list of (h, w, 3) BGR, or a Tensor (B, 3, H, W)."""
        return self.construct_results(probabilities_of(preds), img, arrays_of(orig_imgs))

    @own
    def construct_result(self, pred: Any, img: Tensor, orig_img: Any, img_path: str | Path) -> Results:
        """Return the Results of one image from its probabilities (nc,)."""
        return Results(orig_img, img_path, self.model.names, probs=pred)


__all__: Sequence[str] = ("ClassPredictor", "ClassTrainer", "ClassValidator")
