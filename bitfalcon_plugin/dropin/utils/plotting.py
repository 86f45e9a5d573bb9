"""Pictures and charts under the names of the wider package. Written from spec/dropin.md section 9."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...plots.charts import draw_labels, draw_results
from ...plots.sheets import batch_sheet
from ...predict.pictures import write_picture
from .annotator import Annotator, Colors, colors
from .files import increment_path
from .guards import threaded
from .ops import xywh2xyxy, xyxy2xywh
from .trials import draw_settings, draw_trials, is_setting

__all__ = [
    "Annotator",
    "Colors",
    "colors",
    "feature_visualization",
    "output_to_target",
    "plot_images",
    "plot_labels",
    "plot_results",
    "plot_tune_results",
    "plt_color_scatter",
    "save_one_box",
]


def save_one_box(
    xyxy: Any,
    im: np.ndarray,
    file: str | Path = Path("im.jpg"),
    gain: float = 1.02,
    pad: int = 10,
    square: bool = False,
    BGR: bool = False,
    save: bool = True,
) -> np.ndarray:
    """Return the part of an image (H, W, 3) BGR around a box, in RGB, or with BGR as it is.

    The box, x1, y1, x2, y2 in px, grows about its centre by the factor gain and then by pad px; square: to its longer
    side first. save: write the part as a JPEG file whose name is not taken.
    """
    box = torch.as_tensor(xyxy, dtype=torch.float32).detach().cpu().reshape(1, -1)[:, :4]
    box = xyxy2xywh(box)
    if square:
        box[:, 2:] = box[:, 2:].amax(1, keepdim=True)
    box[:, 2:] = box[:, 2:] * gain + pad
    x1, y1, x2, y2 = xywh2xyxy(box)[0].long().tolist()
    height, width = im.shape[:2]
    x1, x2, y1, y2 = (
        min(max(side, 0), limit) for side, limit in ((x1, width), (x2, width), (y1, height), (y2, height))
    )
    crop = np.asarray(im)[y1:y2, x1:x2]
    if save:
        picture = Image.fromarray(np.ascontiguousarray(crop[..., ::-1] if crop.shape[-1] == 3 else crop.squeeze()))
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        write_picture(picture, increment_path(file).with_suffix(".jpg"))
    return crop if BGR else crop[..., ::-1]


def plot_results(
    file: str | Path = "path/to/results.csv",
    dir: str | Path = "",
    segment: bool = False,
    pose: bool = False,
    classify: bool = False,
    on_plot: Callable[[Path], object] | None = None,
) -> None:
    """Draw each results*.csv of the folder `dir`, or of that of `file`, into results.png there.

    Raises AssertionError where there is none. The columns of the file say what is drawn: segment, pose and classify
    have no effect.
    """
    folder = Path(dir) if dir else Path(file).parent
    tables = sorted(folder.glob("results*.csv"))
    if not tables:
        raise AssertionError(f"there is no results.csv in '{folder.resolve()}'")
    target = folder / "results.png"
    draw_results(tables[0] if Path(file) not in tables else Path(file), target)
    if on_plot:
        on_plot(target)


def plot_labels(
    boxes: Any,
    cls: Any,
    names: Mapping[int, str] | Sequence[str] = (),
    save_dir: str | Path = Path(""),
    on_plot: Callable[[Path], object] | None = None,
) -> None:
    """Draw labels.jpg: boxes (n, 4), centre and size as shares of the image, and their classes (n,) or (n, 1)."""
    classes = np.asarray(_array(cls)).reshape(-1).astype(int)
    count = max(len(names), int(classes.max(initial=-1)) + 1)
    named = dict(names if isinstance(names, Mapping) else enumerate(names))
    target = Path(save_dir) / "labels.jpg"
    draw_labels(
        target, classes, np.asarray(_array(boxes))[:, :4], [named.get(index, str(index)) for index in range(count)]
    )
    if on_plot:
        on_plot(target)


@threaded
def plot_images(
    images: Any,
    batch_idx: Any = None,
    cls: Any = None,
    bboxes: Any = np.zeros(0, dtype=np.float32),
    confs: Any = None,
    masks: Any = np.zeros(0, dtype=np.uint8),
    kpts: Any = np.zeros((0, 51), dtype=np.float32),
    paths: Sequence[str] | None = None,
    fname: str | Path = "images.jpg",
    names: Mapping[int, str] | None = None,
    on_plot: Callable[[Path], object] | None = None,
    max_size: int = 1920,
    max_subplots: int = 16,
    save: bool = True,
    conf_thres: float = 0.25,
    **more: Any,
) -> np.ndarray | None:
    """Draw the images of a batch with their boxes into one picture, in a thread, which is returned.

    images: (B, 3, H, W) RGB, uint8 or in [0, 1], and batch_idx (n,), cls (n,), bboxes (n, 4), confs (n,) of all images;
    or a dict of these first, and the images second. bboxes: centre and size, px or shares. Boxes of less confidence
    than conf_thres are left out. save=False: with threaded=False the picture (H, W, 3) is returned instead. Masks and
    points are not drawn.
    """
    if isinstance(images, Mapping):
        labels, images = images, batch_idx if batch_idx is not None else more.get("images", images.get("img"))
        batch_idx, cls, bboxes = (labels.get(key, ()) for key in ("batch_idx", "cls", "bboxes"))
        confs = labels.get("conf", labels.get("confs"))
        paths = paths if paths is not None else labels.get("im_file")
    pictures = np.asarray(_array(images))
    if pictures.dtype != np.uint8:
        pictures = (pictures * (255 if pictures.max(initial=0) <= 1 else 1)).clip(0, 255).astype(np.uint8)
    columns = [np.asarray(_array(value)).reshape(-1) for value in (batch_idx, () if cls is None else cls)]
    boxes = np.asarray(_array(bboxes), np.float32)
    boxes = boxes.reshape(len(columns[0]), -1)[:, :4] if boxes.size else np.zeros((0, 4), np.float32)
    rows = _sheet_rows(
        pictures.shape, *columns, boxes, None if confs is None else np.asarray(_array(confs)), conf_thres
    )
    captions = [Path(path).name[:40] for path in paths or ()]
    options = {"conf": confs is not None, "captions": captions, "max_images": max_subplots, "max_side": max_size}
    sheet = batch_sheet(pictures, rows, dict(names or {}), **options)
    if not save:
        return np.asarray(sheet)
    write_picture(sheet, Path(fname))
    if on_plot:
        on_plot(Path(fname))
    return None


def _sheet_rows(
    shape: Sequence[int],
    image: np.ndarray,
    classes: np.ndarray,
    boxes: np.ndarray,
    confs: np.ndarray | None,
    least: float,
) -> list[list[tuple[float, ...]]]:
    """The boxes of each image as plots.sheets takes them: x1, y1, x2, y2, score, class."""
    corners = xywh2xyxy(boxes)
    if len(boxes) and boxes.max() <= 1.1:  # shares of the image
        corners = corners * np.array([shape[3], shape[2]] * 2, np.float32)
    scores = np.ones(len(boxes)) if confs is None else confs.reshape(-1)
    rows: list[list[tuple[float, ...]]] = [[] for _ in range(shape[0])]
    for index, label, box, score in zip(image.astype(int), classes, corners.tolist(), scores):
        if index < shape[0] and (confs is None or score > least):
            rows[index].append((*box, float(score), int(label)))
    return rows


def output_to_target(output: Sequence[Tensor], max_det: int = 300) -> tuple[np.ndarray, ...]:
    """Return detections (n, 6) of each image as plot_images takes them: image, class (m,), xywh (m, 4), score (m,)."""
    parts = []
    for index, rows in enumerate(output):
        rows = rows[:max_det].detach().cpu().float()
        image = torch.full((len(rows), 1), float(index))
        parts.append(torch.cat([image, rows[:, 5:6], xyxy2xywh(rows[:, :4]), rows[:, 4:5]], 1))
    table = torch.cat(parts).numpy() if parts else np.zeros((0, 7), np.float32)
    return table[:, 0], table[:, 1], table[:, 2:6], table[:, 6]


def feature_visualization(
    x: Tensor, module_type: str, stage: int, n: int = 32, save_dir: str | Path = Path("runs/detect/exp")
) -> None:
    """Draw the first n channels of the first feature map of x (B, C, H, W) into stage<stage>_<module>_features.png.

    The map is also written beside it as .npy. Heads and maps of one pixel are left out.
    """
    if any(name in module_type for name in ("Detect", "Segment", "Pose", "Classify", "OBB")) or not isinstance(
        x, Tensor
    ):
        return
    height, width = x.shape[2:]
    if height <= 1 or width <= 1:
        return
    maps = x[0, :n].detach().cpu().float()  # (n, H, W)
    columns = math.ceil(len(maps) ** 0.5)
    sheet = np.full((math.ceil(len(maps) / columns) * (height + 1), columns * (width + 1)), 255, np.uint8)
    for index, plane in enumerate(maps):
        low, high = float(plane.min()), float(plane.max())
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        sheet[top : top + height, left : left + width] = ((plane - low) / max(high - low, 1e-12) * 255).numpy()
    target = Path(save_dir) / f"stage{stage}_{module_type.split('.')[-1]}_features.png"
    scale = max(1024 // max(sheet.shape), 1)
    target.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(sheet).resize((sheet.shape[1] * scale, sheet.shape[0] * scale), Image.Resampling.NEAREST)
    write_picture(picture, target)
    np.save(target.with_suffix(".npy"), x[0].detach().cpu().numpy())


def plt_color_scatter(
    v: Any, f: Any, bins: int = 20, cmap: str = "viridis", alpha: float = 0.8, edgecolors: str = "none"
) -> None:
    """Draw points (v, f) into the current axes of matplotlib, coloured by how many points lie in their bin."""
    from matplotlib import pyplot

    counts, x, y = np.histogram2d(v, f, bins=bins)
    column = np.clip(np.digitize(v, x) - 1, 0, bins - 1)
    row = np.clip(np.digitize(f, y) - 1, 0, bins - 1)
    pyplot.scatter(v, f, c=counts[column, row], cmap=cmap, alpha=alpha, edgecolors=edgecolors)


def plot_tune_results(csv_file: str | Path = "tune_results.csv", exclude_zero_fitness_points: bool = True) -> None:
    """Draw tune_scatter_plots.png, fitness over each setting, and tune_fitness.png, fitness over the trials.

    csv_file: a table whose column "fitness", or its first one, is the fitness; other columns of numbers are settings.
    """
    file = Path(csv_file)
    with open(file, newline="", encoding="utf-8") as lines:
        header, *rows = [*csv.reader(lines)] or [[]]
    names = [name.strip() for name in header]
    place = names.index("fitness") if "fitness" in names else 0
    table = np.array([[_number(cell) for cell in row] for row in rows]).reshape(-1, len(names))
    table = table[np.isfinite(table[:, place])]
    fitness = table[:, place]
    draw_trials(file.with_name("tune_fitness.png"), fitness)
    kept = table[fitness > 0] if exclude_zero_fitness_points else table
    columns = {
        name: kept[:, column]
        for column, name in enumerate(names)
        if column != place and is_setting(name) and np.isfinite(kept[:, column]).all() and len(kept)
    }
    if columns:
        draw_settings(file.with_name("tune_scatter_plots.png"), columns, kept[:, place])


def _number(text: str) -> float:
    """A cell of a table as a number; nan for any other text."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _array(value: Any) -> Any:
    """Return a tensor as an array in the CPU's memory, and anything else unchanged; None is empty."""
    if value is None:
        return ()
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value
