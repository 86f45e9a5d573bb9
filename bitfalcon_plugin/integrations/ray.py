"""Prediction on many machines by Ray Data: a callable class for `ray.data.Dataset.map_batches`; needs `ray[data]`.

    import ray
    from bitfalcon_plugin.integrations.ray import BatchPredictor

    images = ray.data.read_binary_files("s3://bucket/images", include_paths=True)
    rows = images.map_batches(
        BatchPredictor,
        fn_constructor_kwargs={"model": "best.pt", "conf": 0.3},
        concurrency=8,
        num_gpus=1,
        batch_size=64,
    )
    rows.write_parquet("s3://bucket/detections")

Ray starts the actors, one model in each, restarts those that die, and gives their batches to others. Written from the
documented interface of ray.data.Dataset.map_batches.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config.errors import UserError
from ..data.images import UnreadableImage, read_interleaved
from ..predict.rows import TYPES, arrow_table, row_of, row_of_unread
from ..yolo import YOLO

if TYPE_CHECKING:
    import pyarrow

IMAGES = ("bytes", "image", "path")  # columns of a batch that hold the images, the first that is there


class BatchPredictor:
    """Predict the images of a batch; the model is opened in the actor, and once.

    model: a path that every machine can read. task: of a model that does not say it. settings: of `YOLO.predict`, such
    as conf=, imgsz=, device= and batch=, the images that go through the network together (default 1, with the numbers
    of `bitfalcon predict`).

    A batch has a column `bytes` (encoded pictures), `image` (arrays (h, w, 3), RGB uint8) or `path` (files that the
    actor can read), and any others. What comes back is a table of Arrow with a row for each image: the columns of
    predict/rows.py, where `image` is the path, and the others of the batch. A picture that cannot be read has the
    reason in `error`.
    """

    def __init__(self, model: str, task: str | None = None, **settings: Any):
        self.model, self.task, self.settings = model, task, {"verbose": False, "save": False, **settings}
        self._yolo: YOLO | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_yolo": None}

    def __call__(self, batch: Mapping[str, Sequence]) -> pyarrow.Table:
        """Return a row for each image of the batch, in its order. Raises UserError for a batch without images."""
        key = next((name for name in IMAGES if name in batch), None)
        if key is None:
            raise UserError(f"A batch with the columns {sorted(batch)}: expected bytes, image or path.")
        if self._yolo is None:
            self._yolo = YOLO(self.model, self.task)
        names = [str(path) for path in batch["path"]] if "path" in batch else [""] * len(batch[key])
        images = [_bgr(key, value) for value in batch[key]]
        readable = [image for image in images if isinstance(image, np.ndarray)]
        results = iter(self._yolo.predict(readable, stream=True, **self.settings) if readable else ())
        rows = [
            row_of(name, next(results)) if isinstance(image, np.ndarray) else row_of_unread(name, str(image))
            for name, image in zip(names, images, strict=True)
        ]
        table = arrow_table(rows)
        for name, values in batch.items():
            if name not in (*IMAGES, *TYPES):
                table = table.append_column(name, [list(values)])
        return table


def _bgr(key: str, value: Any) -> np.ndarray | UnreadableImage:
    """Return the pixels (h, w, 3) BGR uint8 of a value of column `key`, or why they cannot be read."""
    if key == "image":
        return np.ascontiguousarray(np.asarray(value)[..., ::-1])
    try:
        red, green, blue = read_interleaved(io.BytesIO(value) if key == "bytes" else str(value)).numpy()
    except UnreadableImage as error:
        return error
    return np.stack((blue, green, red), -1)
