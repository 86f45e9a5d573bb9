"""What differs between tasks, as one table: how labels are read, the losses, the detections and the metrics.

Training, validation and prediction take a Task as an argument and know no task's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..config.default_table import active_settings
from ..config.errors import UserError, did_you_mean
from ..config.settings import Settings
from ..data.data_format import CLASS_FOLDERS, DataFormat, keypoint_files, label_files, rectangle_files
from ..data.formats.yolo import read_row
from ..data.images import tile_of
from ..models.detector import Detector
from ..ops.keypoint_layout import KeypointLayout
from ..ops.letterbox import describe_letterbox, fits_together
from . import classify, obb, pose, segment
from .detect import LOSSES, decode_detections, detection_loss, evaluate_detections, keep_detections, place_detections
from .metrics import CLASS_COLUMNS, COLUMNS
from .part_metrics import part_columns


@dataclass(frozen=True)
class Task:
    """One task.

    heads: modules of the YAML graph whose outputs the task reads. losses: the name of each loss, in the order of
    results.csv, and the setting that holds its gain, None for 1. columns: the columns of results.csv that hold its
    metrics.

    data: the form of its data: how they are found, scanned and loaded. loss: raw outputs and Instances -> {name: loss}
    (detect.detection_loss). times_images: whether a step minimises the sum of the losses times the number of images,
    otherwise the sum alone. decode: decoded outputs -> the suppressed Instances of each image
    (detect.decode_detections). place: moves the Instances of one image to pixels of the original image
    (detect.place_detections). keep: which detections of several parts of one image suppression keeps
    (detect.keep_detections). evaluate: labels and detections -> TaskMetrics (detect.evaluate_detections). options:
    further arguments of the loss, by the name of the setting that holds them. model_options: model -> those that the
    model states.

    fits: sizes of images -> how they lie on the network input, to predict (ops.letterbox.fits_together). tile: pixels
    and their Fit -> what the network input shows of an image (data.images.tile_of). imgsz: side of the network input
    in training, in pixels, where none is given. bias_lr: learning rate of biases where the warm-up of fresh weights
    starts, unless warmup_bias_lr is given; None: as the settings say. average: how the moving average of the weights
    forgets, a key of train.optim.AVERAGES. measure: what TaskMetrics.main is. without_effect: settings that mean
    nothing to the task -> why.

    conf: detections with a higher score are validated, where conf= is not given. counted_best: how many detections of a
    class and image AP and AR count, best first; None for all.

    objects: whether the task finds objects in an image. Otherwise it says something of the image as a whole: a label,
    and a result, has one row with the whole image as its box. oriented: whether the boxes of objects are oriented; the
    last value of a candidate is then the angle.

    expected: what a self-test must reach with the smallest graph: numbers of TaskMetrics.headline -> least value.

    Of exported models: maps: what decoding needs besides the candidates, raw outputs by their names in detect.Decoded.
    keypoints: whether objects have keypoints, which the file must describe. further: (maps by name, KeypointLayout or
    None) -> for each value of a candidate behind those of the classes what it is: "x" or "y" of a keypoint in pixels,
    its "visibility" in [0, 1], an "angle" in radians, or a "coefficient" of a map. transform: (H, W) of the input ->
    how an image becomes an input, in words.
    """

    name: str
    heads: frozenset[str]
    losses: Mapping[str, str | None]
    columns: tuple[str, ...]
    data: DataFormat
    loss: Callable
    decode: Callable
    place: Callable
    evaluate: Callable
    keep: Callable = keep_detections
    options: tuple[str, ...] = ()
    model_options: Callable[[Detector], Mapping[str, object]] = lambda model: {}
    times_images: bool = True
    fits: Callable = fits_together
    tile: Callable = tile_of
    imgsz: int = 640
    bias_lr: float | None = None
    average: str = "rising"
    measure: str = "mAP50-95"
    without_effect: Mapping[str, str] = field(default_factory=dict)
    conf: float = 0.001
    counted_best: int | None = 100
    objects: bool = True
    expected: Mapping[str, float] = field(default_factory=dict)
    oriented: bool = False
    maps: tuple[str, ...] = ()
    keypoints: bool = False
    further: Callable[[Mapping[str, Tensor], KeypointLayout | None], tuple[str, ...]] = lambda maps, keypoints: ()
    transform: Callable[[tuple[int, int]], str] = describe_letterbox

    def gains(self, settings: Settings) -> dict[str, float]:
        """The gain of each loss, as the settings give it."""
        return {name: getattr(settings, setting) if setting else 1.0 for name, setting in self.losses.items()}

    @property
    def means_nothing(self) -> dict[str, str]:
        """The settings that mean nothing to the task or to its data -> why."""
        return {**self.data.without_effect, **self.without_effect}

    def unused(self, settings: Settings) -> list[str]:
        """A line for each reason why settings mean nothing here that were given another value than their default."""
        rows = active_settings()
        given: dict[str, list[str]] = {}
        for key, reason in self.means_nothing.items():
            if key in settings.given and getattr(settings, key) != rows[key]["default"]:
                given.setdefault(reason, []).append(f"{key}={getattr(settings, key)}")
        return [
            f"{', '.join(parts)} {'has' if len(parts) == 1 else 'have'} no effect on task={self.name}: {reason}."
            for reason, parts in given.items()
        ]

    def effective(self, settings: Settings) -> Settings:
        """The settings with the defaults of all that mean nothing to the task."""
        rows = active_settings()
        return settings.replace(**{key: rows[key]["default"] for key in self.means_nothing})

    @property
    def counted(self) -> str:
        """What the progress line of training counts."""
        return "boxes" if self.objects else "images"

    def loss_options(self, settings: Settings, model: Detector) -> dict[str, object]:
        """The further arguments of the loss, as the settings and the model give them."""
        return {**{name: getattr(settings, name) for name in self.options}, **self.model_options(model)}


DETECT = Task(
    name="detect",
    heads=frozenset({"Detect", "BitDetect"}),
    losses=LOSSES,
    columns=COLUMNS,
    data=label_files("shapes.yaml", read_row),
    loss=detection_loss,
    decode=decode_detections,
    place=place_detections,
    evaluate=evaluate_detections,
    expected={"AP50": 0.65},
)
SEGMENT = Task(
    name="segment",
    heads=frozenset({"Segment"}),
    losses=segment.LOSSES,
    columns=COLUMNS + part_columns("M"),
    data=label_files("shapes-seg.yaml", segment.read_segment, {"boxes_without_masks": read_row}, "outlines"),
    loss=segment.segmentation_loss,
    decode=segment.decode_segments,
    place=segment.place_segments,
    evaluate=segment.evaluate_segments,
    options=("overlap_mask", "mask_ratio"),
    expected={"AP50": 0.65, "Masks AP50": 0.6},
    without_effect={"augment": "masks are computed at one scale"},
    maps=("prototypes",),
    further=segment.mask_coefficients,
)
CLASSIFY = Task(
    name="classify",
    heads=frozenset({"Classify"}),
    losses=classify.LOSSES,
    columns=CLASS_COLUMNS,
    data=CLASS_FOLDERS,
    loss=classify.classification_loss,
    decode=classify.decode_classes,
    place=classify.place_classes,
    evaluate=classify.evaluate_classes,
    times_images=False,
    fits=classify.class_fits,
    tile=classify.class_tile,
    imgsz=224,
    bias_lr=0.1,
    average="growing",
    measure="top-1",
    without_effect=classify.WITHOUT_EFFECT,
    objects=False,
    expected={"top-1": 0.8},
    transform=classify.describe_crop,
)
POSE = Task(
    name="pose",
    heads=frozenset({"Pose"}),
    losses=pose.LOSSES,
    columns=COLUMNS + part_columns("P"),
    data=keypoint_files("figures.yaml"),
    loss=pose.pose_loss,
    decode=pose.decode_poses,
    place=pose.place_poses,
    evaluate=pose.evaluate_poses,
    model_options=pose.model_options,
    without_effect={"augment": "keypoints are computed at one scale"},
    expected={"AP50": 0.65, "Keypoints AP50": 0.4},
    keypoints=True,
    further=pose.point_values,
)
OBB = Task(
    name="obb",
    heads=frozenset({"OBB"}),
    losses=obb.LOSSES,
    columns=COLUMNS,
    data=rectangle_files("shapes-obb.yaml"),
    loss=obb.obb_loss,
    decode=obb.decode_oriented,
    place=obb.place_oriented,
    evaluate=obb.evaluate_oriented,
    conf=0.01,
    counted_best=None,
    expected={"AP50": 0.5},
    oriented=True,
    keep=obb.keep_oriented,
    without_effect={"augment": "oriented boxes are found at one scale", "retina_masks": "there are no masks"},
    further=lambda maps, keypoints: ("angle",),
)
TASKS: Mapping[str, Task] = {task.name: task for task in (DETECT, SEGMENT, CLASSIFY, POSE, OBB)}


def task_of(model: Detector) -> Task:
    """The task of a model: the one that the head row of its graph names, or that an exported model states.

    Raises UserError for a task that is not in TASKS.
    """
    return task_named(model.task)


def task_named(name: str) -> Task:
    """The task of a model whose head is of task `name`. Raises UserError for a task that is not in TASKS."""
    if name not in TASKS:
        nearest = did_you_mean(name, TASKS)
        raise UserError(f"task '{name}' of this model is not supported (supported: {', '.join(TASKS)}).{nearest}")
    return TASKS[name]
