"""Graphs and weights that cannot be built or run, most of them in checkpoints: one line that names the file and row."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.build import resolve_graph, state_shapes
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.modules import MODULES, register
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, content_of, save_checkpoint
from bitfalcon_plugin.models.weights.foreign import open_checkpoint
from tests.attack.graphs import shipped_state
from tests.helpers.tiny_models import CONV, small, small_model

IMAGE = np.zeros((64, 64, 3), np.uint8)
LATER = (-1, 1, "Conv", [16, 3, 2])


def checkpoint(path: Path, *rows, **keys) -> Path:
    """Write a checkpoint of a graph with `rows`, `keys` of its document, and weights that fit unless they are many."""
    model = small_model(CONV, LATER)
    content = content_of(Checkpoint(model.graph, model.state_dict(), measured=(model.strides, model.multiple)))
    document = small(CONV, *(rows or [LATER]), **keys)
    content["graph"] |= {"document": document, "nc": document["nc"], "name": "odd.yaml"}
    with contextlib.suppress(UserError):
        shapes = state_shapes(resolve_graph(document, nc=document["nc"]))
        if sum(math.prod(shape) for shape in shapes.values()) < 10**7:
            content["state"] = {name: torch.zeros(shape) for name, shape in shapes.items()}
    torch.save(content, path)
    return path


BROKEN = {
    "softmax": ([], {"activation": "nn.Softmax(dim=99)"}, ["odd.yaml", "row 0 (Conv)", "Dimension out of range"]),
    "threshold": ([], {"activation": "nn.Threshold(0.1, 'a')"}, ["odd.yaml", "row 0 (Conv)", "threshold"]),
    "size and scale": (
        [LATER, (-1, 1, "nn.Upsample", [[4, 4], 2, "nearest"])],
        {},
        ["odd.yaml", "row 2 (nn.Upsample)", "size or scale_factor"],
    ),
    "huge map": (
        [LATER, (-1, 1, "nn.Upsample", [None, 10**5, "nearest"])],
        {},
        ["odd.yaml", "row 2 (nn.Upsample)", "16x6400000x6400000, more than"],
    ),
    "huge padding": ([(-1, 1, "nn.Conv2d", [16, 16, 3, 2, 40_000]), LATER], {}, ["row 1 (nn.Conv2d)", "more than"]),
    "huge channels": ([LATER], {"ch": 100_000}, ["odd.yaml"]),
    "too many modules": ([(-1, 900, "Conv", [16, 3, 1])] * 3, {}, ["modules, more than 1000"]),
    "wide": ([(-1, 1, "Conv", [16_384, 3, 2])] * 4, {}, ["weights"]),
    "many bins": ([LATER], {"reg_max": 90_000}, ["odd.yaml"]),
    "no floating point": ([LATER, (-1, 1, "nn.Softmax", [1]), (-1, 1, "nn.Flatten", [])], {}, ["row 3 (nn.Flatten)"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_checkpoint_whose_graph_cannot_be_built_or_run(tmp_path, case, capsys):
    rows, keys, told = BROKEN[case]
    path = checkpoint(tmp_path / "x.pt", *rows, **keys)
    start = time.perf_counter()
    main(["info", f"model={path}"])  # looks at shapes alone, and may accept it
    text = capsys.readouterr().err
    assert main(["predict", "source=.", f"model={path}"]) == 2
    text += capsys.readouterr().err
    assert "a fault of" not in text and all(part in text for part in told), text
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("shape", [[1 << 30, 3], [10**150, 3], ["9" * 5000, 3]], ids=["count", "digits", "text"])
def test_keypoints_beyond_all_measure(tmp_path, shape):
    with pytest.raises(UserError, match="kpt_shape"):
        open_checkpoint(checkpoint(tmp_path / "x.pt", kpt_shape=shape))
    with pytest.raises(UserError, match="kpt_shape"):
        resolve_graph(small(CONV, kpt_shape=[10**5000, 3]))


@pytest.mark.parametrize(
    "kernel, told",
    [
        (99, "row 1.* multiplications up to this row"),
        (1000, "row 1.* multiplications up to this row"),
        (yaml.safe_load("1:30:00"), "row 1.* weights up to"),
    ],
)
def test_a_kernel_that_takes_hours_is_refused(kernel, told):
    with pytest.raises(UserError, match=told):
        Detector(resolve_graph(small(CONV, (-1, 1, "Conv", [8, kernel, 1]), LATER)))


def test_wrong_strides_in_a_file_are_measured_again(tmp_path):
    model = small_model(CONV, LATER)
    assert (model.strides, model.multiple) == ((4.0,), 4)
    for measured in (((8.0,), 32), ((4.0, 8.0), 32), ((1.0,), 7), ((4.0,), 60_000)):
        assert Detector(model.graph, measured).strides == (4.0,)
    path = tmp_path / "x.pt"
    save_checkpoint(path, Checkpoint(model.graph, model.state_dict(), measured=((16.0, 32.0), 32)))
    assert open_checkpoint(path, brief=True).model().strides == (4.0,)


def renamed(state, change):
    return {change(key): tensor for key, tensor in state.items() if change(key)}


STATES = {
    "no mlp": ("yolov12-turbo", lambda key: None if ".6.m.0.0.mlp" in key else key, ["model.6.m.0.0.mlp.0", "missing"]),
    "renamed mlp": ("yolov12-turbo", lambda key: key.replace(".mlp.", ".mpl."), ["model.6.m.0.0.mlp.0", "missing"]),
    "other row 6": ("yolov12-turbo", lambda key: key.replace(".6.m.", ".6.n."), ["x.pt"]),
    "no row 6": ("yolov12", lambda key: None if ".6.m." in key else key, ["x.pt"]),
}


@pytest.mark.parametrize("case", STATES)
def test_state_dicts_without_what_tells_their_family(tmp_path, case):
    graph, change, told = STATES[case]
    state = shipped_state(graph)
    torch.save(renamed(state, lambda key: key), tmp_path / "x.pt")
    with pytest.raises(UserError) as caught:
        torch.save(renamed(foreign(state) if graph == "yolov12-turbo" else state, change), tmp_path / "x.pt")
        open_checkpoint(tmp_path / "x.pt")
    assert all(part in str(caught.value) for part in told), caught.value


def foreign(state):
    """The tensors of our turbo graph under its maker's keys."""
    from bitfalcon_plugin.compat.families import TABLES
    from bitfalcon_plugin.compat.remap import invert

    return invert(TABLES["turbo"], state)


@pytest.mark.parametrize(
    "name",
    ["model.21.cv2.0.2.weight", "model.21.cv3.0.2.weight", "model.6.m.0.0.attn.qkv.conv.weight", "model.0.conv.weight"],
)
@pytest.mark.parametrize("shape", [(), (0,), (1, 1), (3, 3, 3, 3, 3)], ids=str)
def test_oddly_shaped_tensors(tmp_path, name, shape):
    state = {**shipped_state("yolov12"), name: torch.zeros(shape, dtype=torch.float16)}
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(UserError, match="x.pt"):
        open_checkpoint(tmp_path / "x.pt")


def test_maps_that_do_not_fit_are_named():
    graph = resolve_graph(small(CONV, (-1, 1, "nn.AdaptiveAvgPool2d", [[8, 8]]), ([-1, 0], 1, "Concat", [1])))
    with pytest.raises(UserError, match="row 2 .Concat. on row 1 16x8x8 and row 0 16x128x128"):
        Detector(graph)


def test_images_of_another_size_name_the_row(tmp_path, monkeypatch):
    """256 px go through, and 64 px do not."""
    rows = [(-1, 1, "nn.MaxPool2d", [3, 1, 1])]
    model = small_model(CONV, *rows)
    save_checkpoint(tmp_path / "x.pt", Checkpoint(model.graph, model.state_dict()))
    yolo = YOLO(tmp_path / "x.pt")
    monkeypatch.setattr(nn.MaxPool2d, "forward", _too_small)
    with pytest.raises(UserError, match=r"row 1 .nn.MaxPool2d. on row 0 16x32x32: too small") as caught:
        yolo.predict(IMAGE, imgsz=64, device="cpu")
    assert isinstance(caught.value.__cause__, RuntimeError)


def _too_small(self, x):
    if x.shape[-1] == 32:
        raise RuntimeError("too small")
    return x


def test_a_failure_that_is_not_of_the_graph_passes(tmp_path, monkeypatch):
    model = small_model(CONV)
    save_checkpoint(tmp_path / "x.pt", Checkpoint(model.graph, model.state_dict()))
    yolo = YOLO(tmp_path / "x.pt")
    yolo.predict(IMAGE, imgsz=64, device="cpu")
    once = iter([RuntimeError("CUDA error: an illegal memory access")])
    forward = nn.Conv2d.forward
    monkeypatch.setattr(
        nn.Conv2d, "forward", lambda self, x: forward(self, x) if not (e := next(once, None)) else _raise(e)
    )
    network = yolo.model
    with pytest.raises(RuntimeError, match="illegal memory access"):
        from bitfalcon_plugin.models.detector import rows_named

        with rows_named():
            network(torch.zeros(1, 3, 64, 64))


def _raise(error):
    raise error


def test_registered_modules_that_look_at_values_are_tried_with_values():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = torch.linspace(0, 1, 3).tolist()

        def forward(self, x):
            return x if x.sum().item() < 1e9 else -x

    before = dict(MODULES)
    try:
        register("Looks", Looks, "same")
        assert Detector(resolve_graph(small(CONV, (-1, 1, "Looks", [])))).strides == (2.0,)
    finally:
        MODULES.clear()
        MODULES.update(before)


def test_images_of_other_channels_are_refused(tmp_path, capsys):
    model = small_model(CONV, ch=1)
    save_checkpoint(tmp_path / "x.pt", Checkpoint(model.graph, model.state_dict()))
    with pytest.raises(UserError, match=r"\(1, 3, 64, 64\); expected floating point \(B, 1, H, W\)"):
        YOLO(tmp_path / "x.pt").predict(IMAGE, imgsz=64, device="cpu")
