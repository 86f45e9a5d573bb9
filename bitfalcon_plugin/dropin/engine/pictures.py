"""The pictures of a run that a script's trainer draws, or is told of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ...data.augmentation.augment import Batch
from ...data.dataset import Sample
from ...tasks import TASKS
from ...tasks.metrics import Metrics
from ...val.pictures import Pictures
from .batches import dict_of

Script = Any  # a BaseTrainer, whose file imports this one


class PicturesOfScript(Pictures):
    """Our Pictures, which ask the script's trainer to draw its own, and tell it each file by `on_plot`."""

    def __init__(self, pictures: Pictures, script: Script) -> None:
        super().__init__(pictures.folder, pictures.names, pictures.plots, pictures.note)
        self.script, self.finished = script, False

    def labels(self, samples: Sequence[Sample]) -> None:
        self._by_script("labels", self.script.plot_training_labels, partial(super().labels, samples))

    def draw_train_batch(self, iteration: int, batch: Batch) -> None:
        def draw() -> None:
            task, model = TASKS[self.script.task], self.script.model
            values = dict_of(batch, self.script._run.files, task, getattr(model, "keypoints", None))
            self.script.plot_training_samples(batch=values, ni=iteration)

        self._by_script("train_batch", draw, partial(super().draw_train_batch, iteration, batch))

    def results(self) -> None:
        self.finished = True
        self._by_script("results", self.script.plot_metrics, super().results)

    def finish(self, metrics: Metrics | None) -> None:
        self.results()
        self.curves(metrics)

    def _by_script(self, name: str, method: Callable[[], None], own: Callable[[], None]) -> None:
        if not self.plots:
            return
        before = self._files()
        with self.script._run.in_place_of(name, own):
            method()
        for path in sorted(self._files() - before):
            self.script.on_plot(path)

    def _files(self) -> set:
        return {path for path in self.folder.glob("*") if path.suffix in (".jpg", ".png")}
