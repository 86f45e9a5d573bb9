"""SAHI's sliced prediction with detectors of this package; needs `pip install sahi`.

SAHI: Akyon et al., "Slicing Aided Hyper Inference", ICIP 2022. Written from
the documented interface of sahi.models.base.DetectionModel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..config.errors import UserError
from ..predict.results import Results
from ..yolo import YOLO

try:
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction
except ImportError as error:
    raise ImportError("bitfalcon_plugin.integrations.sahi needs SAHI: pip install sahi") from error


class BitfalconDetectionModel(DetectionModel):
    """A detector for get_prediction, get_sliced_prediction and predict of SAHI.

    Give model_path, a checkpoint, or model, a YOLO object, which is moved to the device. confidence_threshold: the
    lowest score. device: as SAHI names it; default: the first GPU, or the CPU without GPUs. image_size: the side of the
    network input in pixels; default: that of the training. category_mapping: class index as text to name, replaces the
    model's own names. category_remapping: as in SAHI. The slices of a batch (batch_size=) are detected in one pass.
    """

    def load_model(self) -> None:
        """Open the checkpoint at model_path."""
        if not self.model_path:
            raise UserError("BitfalconDetectionModel needs model_path=, a checkpoint, or model=, a YOLO object.")
        self.set_model(YOLO(self.model_path))

    def set_model(self, model: YOLO, **kwargs: object) -> None:
        """Use a YOLO object and move it to the device.

        Raises UserError for anything else, and for a class without a name in category_mapping.
        """
        if not isinstance(model, YOLO):
            hint = " Give a path as model_path= ." if isinstance(model, (str, Path)) else ""
            raise UserError(f"model is a {type(model).__name__}; expected a YOLO object.{hint}")
        names = {str(index): name for index, name in model.names.items()}
        if unnamed := sorted(names.keys() - (self.category_mapping or names).keys(), key=int):
            classes = ", ".join(unnamed)
            raise UserError(
                f"category_mapping has no name for the model's classes {classes} (keys are text: {{'0': 'cat'}})."
            )
        self.model, self.category_mapping = model.to(str(self.device)), dict(self.category_mapping or names)

    @property
    def num_categories(self) -> int:
        """The number of classes."""
        return len(self.category_mapping)

    @property
    def category_names(self) -> list[str]:
        """The names of the classes."""
        return list(self.category_mapping.values())

    @property
    def has_mask(self) -> bool:
        """False: detections are boxes."""
        return False

    def perform_inference(self, image: np.ndarray) -> None:
        """Detect in one image, (H, W, 3) RGB uint8."""
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: Sequence[np.ndarray]) -> None:
        """Detect in several images at once, each (H, W, 3) RGB uint8."""
        if not len(images):
            self._original_predictions = []
            return
        size = {} if self.image_size is None else {"imgsz": self.image_size}
        bgr = [image if image.ndim == 2 else image[..., 2::-1] for image in images]  # removes an alpha channel too
        self._original_predictions = self.model.predict(bgr, conf=self.confidence_threshold, batch=len(bgr), **size)

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: list | None = None, full_shape_list: list | None = None
    ) -> None:
        # Each image has a shift [x, y] and a full size [height, width]; for one image SAHI gives them without a list.
        results: list[Results] = self._original_predictions
        shifts = _for_each_image(shift_amount_list or [0, 0], len(results))
        shapes = _for_each_image(full_shape_list, len(results))
        self._object_prediction_list_per_image = [
            self._predictions(*image) for image in zip(results, shifts, shapes, strict=True)
        ]

    def _predictions(self, result: Results, shift: list[int], shape: list[int] | None) -> list[ObjectPrediction]:
        return [
            ObjectPrediction(
                bbox=[x1, y1, x2, y2],
                category_id=int(cls),
                category_name=self.category_mapping[str(int(cls))],
                score=score,
                shift_amount=shift,
                full_shape=shape,
            )
            for x1, y1, x2, y2, score, cls in result.boxes.data.tolist()
            if x1 < x2 and y1 < y2
        ]


def _for_each_image(value: list | None, count: int) -> list:
    return [value] * count if value is None or not isinstance(value[0], (list, tuple)) else list(value)
