"""Labels and detections from plain numbers, for tests of what reads them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bitfalcon_plugin.data.augmentation.augment import Batch
from bitfalcon_plugin.data.augmentation.compose import Tile
from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.ops.boxes import xywh_from_xyxy, xyxy_from_xywh
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.polygons import Polygons


def targets_of(boxes: Tensor, classes: Tensor, image: Tensor) -> Instances:
    """Labels (n, 4) xyxy with the index of the image of each."""
    return Instances(boxes, classes, image=image)


def tile_of(image: Tensor, boxes: Tensor, classes: Tensor, polygons: Polygons | None = None) -> Tile:
    """An image (3, h, w) with labels (n, 4) xyxy in its pixels."""
    return Tile(image, Instances(boxes, classes, polygons=polygons))


def sample_of(image, size: tuple[int, int], classes: Tensor, boxes: Tensor) -> Sample:
    """A sample of a dataset; boxes (n, 4): centre x, centre y, width, height in shares of the image."""
    return Sample(image, size, Instances(xyxy_from_xywh(boxes), classes))


def detections_of(rows) -> Instances:
    """Detections from rows (n, 7): image, x, y, width, height, score, class."""
    rows = torch.as_tensor(np.asarray(rows, dtype=np.float64)).view(-1, 7)
    boxes = torch.cat([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5]], dim=1).float()
    return Instances(boxes, rows[:, 6].long(), rows[:, 5].float(), rows[:, 0].long())


def total(losses: dict[str, Tensor], batch: int = 2) -> Tensor:
    """What a training step minimises: the sum of the losses times the number of images."""
    return sum(losses.values()) * batch


def stacked(losses: dict[str, Tensor]) -> Tensor:
    """The losses of a task as one tensor, without gradient."""
    return torch.stack([*losses.values()]).detach()


def columns(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, classes and images of the labels of a batch."""
    return batch.labels.boxes, batch.labels.classes, batch.labels.image


def centres(sample: Sample) -> Tensor:
    """The boxes of a sample as its label file has them: (n, 4) centre x, centre y, width, height."""
    return xywh_from_xyxy(sample.labels.boxes)
