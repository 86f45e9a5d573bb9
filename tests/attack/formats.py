"""A small whole file of every format that is opened here, and how each is opened; the mutations begin with these."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.files import cfg_dir
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data import scan_cache
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.doctor.survey import survey
from bitfalcon_plugin.data.formats.coco_labels import Wish
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.data.formats.obb_rows import read_obb
from bitfalcon_plugin.data.formats.pose_rows import read_pose
from bitfalcon_plugin.data.formats.yolo import TxtLabels, read_labels, read_row, reader_for
from bitfalcon_plugin.data.images import UnreadableImage, image_size, read_image
from bitfalcon_plugin.data.loading.image_cache import TileFiles
from bitfalcon_plugin.models.build import read_graph, state_shapes
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
from bitfalcon_plugin.predict.sources import list_sources
from bitfalcon_plugin.track.options import read_options
from bitfalcon_plugin.train.resume import resumed_run
from tests.attack.annotation_mutators import mutate_json, mutate_xml
from tests.attack.mutators import MUTATORS, mutate_bytes, mutate_text
from tests.helpers import coloured, foreign
from tests.helpers.bad_images import encoded
from tests.helpers.tiny_models import CONV, small_model

IMAGE = np.zeros((48, 64, 3), np.uint8)
EXPORTED = {  # format -> packages that write and run it
    "torchscript": (),
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "pt2": (),
}


@dataclass(frozen=True)
class Kind:
    """A format: the name of its file, how it is mutated, and how a file is opened. weight: how often it takes part."""

    file: str
    open: Callable[[Path], object]
    weight: int = 4
    mutate: Callable[[random.Random, bytes], bytes] | None = None

    def mutated(self, draw: random.Random, data: bytes) -> bytes:
        """A mutation of the file's content, as its suffix asks for."""
        suffix = self.file.rpartition(".")[2]
        return (self.mutate or MUTATORS.get(suffix, mutate_bytes))(draw, data)


def open_model(path: Path) -> None:
    """Open a model of any kind and predict."""
    YOLO(path).predict(IMAGE, imgsz=64, device="cpu", verbose=False)


def open_data(path: Path) -> None:
    """Read a dataset's YAML, scan it, and examine it."""
    spec = load_data(path)
    for split in spec.splits:
        scan(spec, split)
    survey(path)


def open_annotations(path: Path) -> None:
    """Read the dataset of an annotation file as training, validation and conversion of every task do."""
    root = path.parent
    parts = ("", "outlines", "keypoints") if path.suffix == ".json" else ("",)
    refusal = None
    for wish in (Wish(part, exact=part == "outlines", truth=True) for part in parts):
        try:
            result = scan(load_data(root / "data.yaml"), "train", wish=wish)
            [sample.pixel_labels() for sample in result.samples]
        except UserError as error:
            refusal = error
    survey(root / "data.yaml")
    if refusal is not None:
        raise refusal


def open_labels(path: Path) -> None:
    """Read a label file as each task does."""
    for read in (read_row, read_obb, reader_for(read_pose, (2, 3))):
        read_labels(path, 3, read)


def open_image(path: Path) -> None:
    """Look at an image as the scan does, and decode it."""
    for read in (image_size, read_image):
        try:
            read(path)
        except UnreadableImage as error:
            if "\n" in str(error):
                raise ValueError("a reason of several lines") from error


def open_tile(path: Path) -> None:
    """Take a tile from the cache of images, whose file this is."""
    cache = TileFiles(path.parent, [__file__], [(48, 64)])
    target = cache.path(0)
    target.parent.mkdir(exist_ok=True)
    os.replace(path, target)
    tile = cache.get(0)
    if tile is not None and tile.shape != (3, 48, 64):
        raise ValueError(f"a tile of {tile.shape}")


def open_run(path: Path) -> None:
    """Read the state of a run that is to be resumed."""
    resumed_run(load_settings({"mode": "train", "resume": str(path)}))


KINDS: dict[str, Kind] = {
    "checkpoint": Kind("ours.pt", open_model, 16),
    "foreign checkpoint": Kind("foreign.pt", open_model, 16),
    "pickle without archive": Kind("old.legacy", lambda path: open_model(path.rename(path.with_suffix(".pt"))), 12),
    "state dict": Kind("state.pt", open_model, 6),
    "run to resume": Kind("last.pt", open_run, 6),
    "graph": Kind("graph.yaml", open_model, 16),
    "dataset": Kind("data/data.yaml", open_data, 12),
    "labels": Kind("labels.txt", open_labels, 6, mutate_text),
    "COCO JSON": Kind("coco/annotations.json", open_annotations, 10, mutate_json),
    "VOC XML": Kind("voc/0.xml", open_annotations, 10, mutate_xml),
    "tracker": Kind("tracker.yaml", read_options, 4),
    "settings": Kind("settings.yaml", lambda path: load_settings({"cfg": str(path)}), 6),
    "list of sources": Kind("list.txt", lambda path: list_sources(str(path)), 4),
    "scan cache": Kind("scan.pt", lambda path: scan_cache._load(path), 6),
    "tile cache": Kind("a.tile", open_tile, 4),
    **{
        f"image {suffix}": Kind(f"image.{suffix}", open_image, 3)
        for suffix in ("png", "jpg", "webp", "bmp", "tif", "gif", "npy", "ppm")
    },
    "torchscript": Kind("m.torchscript", open_model, 2),
    "onnx": Kind("m.onnx", open_model, 3),
    "pt2": Kind("m.pt2", open_model, 2),
    "openvino graph": Kind("m_openvino_model/m.xml", lambda path: open_model(path.parent), 2),
    "openvino weights": Kind("m_openvino_model/m.bin", lambda path: open_model(path.parent), 1),
    "openvino metadata": Kind("m_openvino_model/metadata.yaml", lambda path: open_model(path.parent), 1),
}


def corpus(folder: Path) -> None:
    """Write a whole file of every kind whose packages are installed into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = small_model(CONV, (-1, 1, "Conv", [32, 3, 2]))
    checkpoint = Checkpoint(model.graph, model.state_dict())
    save_checkpoint(folder / "ours.pt", checkpoint)
    shapes = state_shapes(read_graph("yolov12.yaml", "n", nc=2))
    state = {key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}
    foreign.write(folder / "foreign.pt", state)
    torch.save({"model": state}, folder / "old.legacy", _use_new_zipfile_serialization=False)
    torch.save({"model": state}, folder / "state.pt")
    content = {**torch.load(folder / "ours.pt"), "training": {"epoch": 1, "batch": 0, "given": ["epochs"]}}
    torch.save({**content, "settings": {"epochs": 2, "data": "data.yaml"}}, folder / "last.pt")
    coloured.lay_out(folder)
    (folder / "small.yaml").rename(folder / "graph.yaml")
    (folder / "labels.txt").write_text(
        "0 0.5 0.5 0.2 0.3\n1 0.1 0.1 0.2 0.1 0.3 0.4 0.2 0.2\n2 .5 .5 .2 .2 .5 .5 2 .4 .4 1\n"
    )
    (folder / "tracker.yaml").write_bytes((cfg_dir() / "trackers/bytetrack.yaml").read_bytes())
    (folder / "settings.yaml").write_text("epochs: 3\nlr0: 0.01\nimgsz: 64\nclasses: [0, 1]\nname: first\ncache: ram\n")
    (folder / "list.txt").write_text("data/images/train/0.png\n./data/images/train/1.png\ndata/images/val/*.png\n0\n")
    _caches(folder)
    _annotations(folder)
    for suffix, kind in (
        ("png", "PNG"),
        ("jpg", "JPEG"),
        ("webp", "WEBP"),
        ("bmp", "BMP"),
        ("tif", "TIFF"),
        ("gif", "GIF"),
    ):
        (folder / f"image.{suffix}").write_bytes(encoded(kind))
    (folder / "image.ppm").write_bytes(encoded("PPM"))
    array = io.BytesIO()
    np.save(array, IMAGE)
    (folder / "image.npy").write_bytes(array.getvalue())
    for name, packages in EXPORTED.items():
        if all(importlib.util.find_spec(package) for package in packages):
            yolo = YOLO(folder / "ours.pt")
            yolo.export(format=name, imgsz=64, device="cpu", verbose=False)
    for path in folder.glob("ours*"):
        if path.name != "ours.pt":
            _renamed(path)


def _renamed(path: Path) -> None:
    target = path.rename(path.with_name(path.name.replace("ours", "m", 1)))
    if target.is_dir():
        for inner in target.iterdir():
            inner.rename(inner.with_name(inner.name.replace("ours", "m", 1)))


def _annotations(folder: Path) -> None:
    """Write a dataset of each format of annotation files, whose data.yaml lies beside them."""
    rings = [[10.0, 10, 30, 10, 30, 30.5, 10, 30], [12, 12, 20, 12, 20, 20]]
    objects = (
        {"bbox": [10, 10, 20, 20.5], "segmentation": rings, "keypoints": [12, 12, 2, 20, 20, 1, 0, 0, 0], "area": 400},
        {"bbox": [0, 0, 64, 48], "iscrowd": 1, "segmentation": {"size": [48, 64], "counts": [0, 3072]}, "area": 3072},
        {"bbox": [5, 5, 9, 9], "segmentation": [rings[1]], "num_keypoints": 1, "keypoints": [6, 6, 2, *[0] * 6]},
    )
    points = {"keypoints": ["left", "right", "handle"], "skeleton": [[1, 3], [2, 3]]}
    document = {
        "images": [{"id": at, "file_name": f"{at}.png", "height": 48, "width": 64} for at in range(3)],
        "annotations": [
            {"id": at + 1, "image_id": at // 2, "category_id": 7, **each} for at, each in enumerate(objects)
        ],
        "categories": [{"id": 7, "name": "rake", **points}, {"id": 3, "name": "cat"}],
    }
    box = "<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    row = f"<object><name>cat</name><difficult>1</difficult>{box}</object>\n"
    size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
    source = "<source><database>mine</database></source>"
    xml = f"<annotation><filename>0.png</filename>{source}{size}\n{row * 2}{row.replace('>1<', '>0<')}</annotation>"
    for name, text in (("coco", "train: annotations.json\n"), ("voc", "names: [cat]\ntrain: .\n")):
        (folder / name).mkdir()
        (folder / name / "data.yaml").write_text(f"format: {name}\n{text}val: {text.split()[-1]}\n")
        for number in range(3):
            (folder / name / f"{number}.png").write_bytes(encoded("PNG"))
    (folder / "coco/annotations.json").write_text(json.dumps(document))
    (folder / "voc/0.xml").write_text(xml)


def _caches(folder: Path) -> None:
    images = sorted((folder / "data/images/train").iterdir())
    scanned = [((1, 2, 3, 4), scan_cache.scan_image(path, TxtLabels(3))) for path in images]
    scan_cache._save(folder / "scan.pt", scanned)
    cache = TileFiles(folder, [__file__], [(48, 64)])
    cache.path(0).parent.mkdir(exist_ok=True)
    cache.put(0, torch.zeros(3, 48, 64, dtype=torch.uint8))
    os.replace(cache.path(0), folder / "a.tile")


def outcome(kind: Kind, path: Path) -> str:
    """Open a file and say what became of it: opened, refused, or the fault."""
    try:
        kind.open(path)
    except UserError as error:
        return f"refused: {str(error)[:100]}" if str(error).strip() else "fault: an empty UserError"
    except Exception as error:
        import traceback

        at = traceback.extract_tb(error.__traceback__)[-3:]
        places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(at))
        return f"fault: {type(error).__name__}: {str(error)[:300]} ({places})"
    return "opened"
