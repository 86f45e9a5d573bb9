"""What programs that require the wider package by name do with it, from the facts of spec/dropin.md section 14.

SAHI and supervision themselves run in tests/house/test_scripts.py. The programs here are too heavy for tests: their
steps are done one by one.
"""

from __future__ import annotations

import importlib.util
import inspect

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from bitfalcon_plugin.dropin.hook import install
from tests.helpers.coloured import lay_out
from tests.helpers.running import as_it_was  # noqa: F401
from tests.helpers.small_yolo import save_weights


@pytest.fixture()
def weights(tmp_path, monkeypatch, as_it_was):
    """A checkpoint with random weights that finds many boxes; pictures in data/images/val; `ultralytics` is ours."""
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    install(quiet=True)
    return save_weights(tmp_path, "best.pt")


def test_fiftyone(weights):
    from ultralytics import YOLO
    from ultralytics.data.augment import LetterBox
    from ultralytics.nn.tasks import ClassificationModel, DetectionModel, OBBModel, PoseModel, SegmentationModel
    from ultralytics.utils.ops import scale_masks

    model = YOLO(weights)
    assert type(model).__module__.startswith("ultralytics.") and not model.predictor
    kinds = (SegmentationModel, PoseModel, DetectionModel, OBBModel, ClassificationModel)
    assert next(kind for kind in kinds if isinstance(model.model, kind)) is DetectionModel
    predictor = model.task_map[model.task]["predictor"](
        overrides={"conf": 0.25, "save": False, "mode": "predict", "rect": False, "verbose": False, "device": "cpu"},
        _callbacks=model.callbacks,
    )
    predictor.setup_model(model=model.model, verbose=False)
    predictor.setup_source([np.zeros((10, 10))])
    assert predictor.dataset is not None
    picture = np.asarray(Image.open("data/images/val/0.png").convert("RGB"))[:, :48]  # square: no other padding
    boxed = LetterBox((64, 64), auto=False)(image=picture)
    assert boxed.shape == (64, 64, 3)
    batch = torch.from_numpy(boxed).permute(2, 0, 1)[None].float() / 255
    predictor.batch, predictor._lock = (["0.png"], [picture], [""]), None
    (result,) = predictor.postprocess(predictor.inference(batch), batch, [picture])
    expected = model(picture[..., ::-1], imgsz=64, device="cpu", verbose=False)[0]
    assert len(result.boxes) == len(expected.boxes) > 0
    assert torch.allclose(result.boxes.xywhn, expected.boxes.xywhn, atol=1e-4)
    assert torch.equal(result.boxes.cls, expected.boxes.cls) and result.names == model.names
    assert scale_masks(torch.ones(1, 1, 16, 16), (48, 64)).shape == (1, 1, 48, 64)
    assert next(model.half().parameters()).dtype == torch.float16


def test_label_studio(weights, tmp_path):
    pytest.importorskip("trackers", reason="trackers is not installed (extra track)")
    from ultralytics import YOLO

    model = YOLO(str(weights))
    assert isinstance(YOLO, type) and isinstance(model, YOLO) and [*model.names.values()] == ["0", "1", "2"]
    keys = {"track_high_thresh": 0.25, "track_low_thresh": 0.1, "new_track_thresh": 0.25, "track_buffer": 30}
    keys.update(tracker_type="bytetrack", match_thresh=0.8, fuse_score=True)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(keys))
    results = model.track("data/images/val", conf=0.25, iou=0.5, tracker=str(path), imgsz=64, stream=True)
    frames = 0
    for result in results:
        frames += 1
        if result.boxes.is_track:
            assert len(result.boxes.id.tolist()) == len(result.boxes)
            x, y, w, h = result.boxes.xywhn[0].tolist()
            assert max(x, y, w, h) <= 1
    assert frames == 4


def test_roboflow(weights, tmp_path):
    import ultralytics
    from packaging.version import Version
    from ultralytics import YOLO

    assert Version(ultralytics.__version__) == Version("8.3.63") >= Version("8.3.0")
    model = YOLO(weights)
    torch.save(
        {"model": model.model, "ema": None, "train_args": {"model": "small.yaml", "imgsz": 64, "batch": 4}}, "w.pt"
    )
    file = torch.load("w.pt", map_location="cpu", weights_only=False)
    network = file["model"] if file["model"] is not None else file["ema"].model
    assert type(network).__name__ == "DetectionModel" and network.yaml["nc"] == 3
    assert network.names == {0: "0", 1: "1", 2: "2"} and file["train_args"]["imgsz"] == 64


def test_comfyui(weights):
    from ultralytics import YOLO
    from ultralytics.nn import modules
    from ultralytics.nn.modules import block
    from ultralytics.nn.tasks import DetectionModel, SegmentationModel
    from ultralytics.utils import IterableSimpleNamespace, loss
    from ultralytics.utils.loss import E2EDetectLoss
    from ultralytics.utils.tal import TaskAlignedAssigner

    classes = {}
    for module in (modules, block, loss):
        for name, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__.startswith(("ultralytics.nn.modules", "ultralytics.utils.loss")):
                classes[name] = type(name, (cls,), {})
    assert {"Conv", "C3k2", "A2C2f", "SPPF", "Detect"} <= set(classes)
    classes.update({cls.__name__: cls for cls in (DetectionModel, SegmentationModel, IterableSimpleNamespace)})
    classes.update({cls.__name__: cls for cls in (E2EDetectLoss, TaskAlignedAssigner)})
    torch.serialization.add_safe_globals([*classes.values()])
    result = YOLO(str(weights))(Image.open("data/images/val/0.png"), conf=0.25, device="", imgsz=64)[0]
    labels = [result.names[result.boxes[i].cls.item()] for i in range(len(result.boxes))]
    assert len(labels) > 0 and result.masks is None


def test_the_check_that_clients_make_before_the_import(weights):
    assert importlib.util.find_spec("ultralytics") is not None
    assert importlib.util.find_spec("ultralytics.nn.tasks") is not None
    from ultralytics import YOLO, settings

    assert isinstance(dict(settings), dict) and YOLO.__name__ == "YOLO"
