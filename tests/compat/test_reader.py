"""Other makers' checkpoints: every layout people have is read exactly, and nobody's package is asked for."""

from __future__ import annotations

import argparse
import json
import sys
import types
from collections import OrderedDict
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import torch
from bitfalcon_plugin.compat.reader import ForeignContent, read
from torch import nn

from bitfalcon_plugin.config.errors import MissingFileError, UserError
from tests.helpers import foreign
from tests.helpers.paths import SHARED

needs_shared = pytest.mark.skipif(not (SHARED / "checkpoints").is_dir(), reason="../shared with real files is not here")


def same(found: ForeignContent, state: dict[str, torch.Tensor]) -> bool:
    """Whether the file gave exactly these tensors, in this order, bit for bit."""
    pairs = zip(found.state.values(), state.values())
    return list(found.state) == list(state) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return foreign.small_state()


# Real files.


@needs_shared
@pytest.mark.parametrize("name", ["turbo-n", "v1-n-released-layout"])
def test_real_files_bit_for_bit(name: str, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(SHARED / "conformance"))
    from tests.data.recorded.fill import fill

    recorded = json.loads((SHARED / "conformance" / f"checkpoint-{name}.json").read_text())
    found = read(SHARED / "checkpoints" / f"{name}.pt")
    shapes = [(key, list(tensor.shape)) for key, tensor in found.state.items()]
    assert shapes == list(recorded["state_dict"].items())  # in this order
    for key, tensor in found.state.items():
        expected = torch.from_numpy(np.asarray(fill(key, tuple(tensor.shape)))).to(tensor.dtype)
        assert torch.equal(tensor, expected), key
        assert tensor.dtype == (torch.int64 if key.endswith("num_batches_tracked") else torch.float16)
    assert found.half and found.layout == "pickled model" and found.notes == ()
    assert found.attributes["license"] == "AGPL-3.0" and found.attributes["yaml"]["nc"] == 80
    assert found.attributes["stride"].tolist() == [8, 16, 32] and found.attributes["names"][79] == "thing79"


@needs_shared
def test_a_file_of_a_training() -> None:
    found = read(SHARED / "checkpoints" / "v1-n-bccd-best.pt")
    keys = list(json.loads((SHARED / "conformance" / "v1-n.json").read_text())["state_dict"])
    assert list(found.state) == keys
    assert found.attributes["names"] == {0: "RBC", 1: "WBC", 2: "Platelets"} and found.attributes["nc"] == 3
    assert found.attributes["train_args"]["imgsz"] == 320 and found.attributes["epoch"] == -1
    assert len(found.attributes["train_results"]["epoch"]) == 30
    assert "ultralytics.nn.tasks.DetectionModel" in found.classes
    norms = {key.removesuffix(".running_var") for key in keys if key.endswith(".running_var")}
    assert set(found.eps) == set(found.momentum) == norms
    assert set(found.eps.values()) == {1e-3} and set(found.momentum.values()) == {0.03}


# Layouts.


def test_stripped(tmp_path, state) -> None:
    graph = {"nc": 2, "scale": "n", "backbone": [[-1, 1, "Conv", [64, 3, 2]]]}
    own = {"yaml": graph, "names": {0: "a", 1: "b"}, "stride": torch.tensor([8.0])}
    found = read(
        foreign.write(
            tmp_path / "x.pt", state, attributes=own, license="AGPL-3.0", date="2025-02-19", train_args={"imgsz": 640}
        )
    )
    assert same(found, state) and found.half and found.layout == "pickled model" and found.notes == ()
    assert found.attributes["yaml"] == graph and found.attributes["names"] == {0: "a", 1: "b"}
    assert found.attributes["epoch"] == -1 and found.attributes["train_args"] == {"imgsz": 640}
    assert found.attributes["license"] == "AGPL-3.0" and found.attributes["date"] == "2025-02-19"
    assert found.attributes["stride"].tolist() == [8]
    assert not set(found.attributes) & {"model", "ema", "optimizer", "_modules"}
    assert found.classes == (
        "torch.nn.modules.batchnorm.BatchNorm2d",
        "torch.nn.modules.container.Sequential",
        "ultralytics.nn.modules.block.Part",
        "ultralytics.nn.modules.conv.Conv",
        "ultralytics.nn.tasks.DetectionModel",
    )
    assert not any(tensor.requires_grad or isinstance(tensor, nn.Parameter) for tensor in found.state.values())


def test_ema_before_model_in_a_resumable_file(tmp_path, state) -> None:
    stepped = {key: tensor + 1 for key, tensor in state.items()}
    moments = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 0.01}]}

    def both(model, cls):
        return {"epoch": 5, "model": foreign.tree(stepped, cls), "ema": model, "updates": 30, "optimizer": moments}

    found = read(foreign.write(tmp_path / "last.pt", state, wrap=both))
    assert same(found, state) and found.layout == "resumable"
    assert found.attributes["epoch"] == 5 and "optimizer" not in found.attributes


def test_full_precision_and_other_batch_norms(tmp_path) -> None:
    state = foreign.small_state(half=False)
    found = read(foreign.write(tmp_path / "x.pt", state, eps=1e-5, momentum=0.1))
    assert same(found, state) and not found.half
    assert found.eps == {"model.0.bn": 1e-5} and found.momentum == {"model.0.bn": 0.1}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model, cls: model,
        lambda model, cls: _with(cls("ultralytics.models.yolo.model.YOLO")(), model=model),
        lambda model, cls: _with(cls("ultralytics.utils.IterableSimpleNamespace")(), ema=model, updates=3),
        lambda model, cls: _with(cls("ultralytics.nn.tasks.DetectionModel")(), _orig_mod=model),
    ],
    ids=["model", "facade", "average", "compiled"],
)
def test_bare_objects(tmp_path, state, wrap) -> None:
    found = read(foreign.write(tmp_path / "x.pt", state, wrap=wrap, attributes={"names": {0: "a"}}))
    assert same(found, state) and found.layout == "bare module"
    assert found.attributes["names"] == {0: "a"} and found.eps == {"model.0.bn": 1e-3}


def _with(holder, **items):
    for name, item in items.items():
        setattr(holder, name, item)
    return holder


def test_wrapped_by_data_parallel(tmp_path, state) -> None:
    def wrap(model, cls):
        return {"model": nn.DataParallel(model)}

    found = read(foreign.write(tmp_path / "x.pt", state, attributes={"nc": 9}, wrap=wrap))
    assert same(found, state) and found.attributes["nc"] == 9 and found.layout == "pickled model"


def test_of_the_yolov5_era(tmp_path, state) -> None:
    path = foreign.write(tmp_path / "x.pt", state, root="models.yolo.Model", best_fitness=np.float64(0.5))
    found = read(path)
    assert same(found, state) and "models.yolo.Model" in found.classes and found.attributes["best_fitness"] == 0.5


@pytest.mark.parametrize(
    "content",
    [
        lambda state: state,
        lambda state: OrderedDict(state),
        lambda state: {"model": state, "names": {0: "a"}},
        lambda state: {"state_dict": state},
        lambda state: {"ema": state, "model": None},
        lambda state: {"model_state_dict": state},
    ],
    ids=["bare", "ordered", "model", "state_dict", "ema", "model_state_dict"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_state_dicts(tmp_path, state, content, zipped) -> None:
    torch.save(content(state), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "x.pt")
    assert same(found, state) and found.layout == "state dict" and found.half
    assert found.classes == () and found.eps == {} and found.notes == ()
    assert found.attributes == ({"names": {0: "a"}} if "names" in content(state) else {})


def test_the_state_dict_of_a_module_keeps_its_metadata_out(tmp_path, state) -> None:
    with foreign.package() as cls:
        saved = foreign.tree(state, cls).state_dict()
    assert saved._metadata
    torch.save(saved, tmp_path / "x.pt")
    assert same(read(tmp_path / "x.pt"), state)


@pytest.mark.parametrize("prefix", ["module.model.", "model.model.", "module.model.model.", "_orig_mod.model.", ""])
def test_prefixes(tmp_path, state, prefix) -> None:
    wrapped = {prefix + key.removeprefix("model."): tensor for key, tensor in state.items()}
    torch.save({"state_dict": wrapped}, tmp_path / "x.pt")
    found = read(tmp_path / "x.pt")
    assert same(found, state) and len(found.notes) == 1 and (prefix or "row numbers") in found.notes[0]


def test_keys_of_other_models_stay(tmp_path) -> None:
    state = {"module.backbone.weight": torch.ones(2), "module.head.weight": torch.ones(3)}
    torch.save(state, tmp_path / "x.pt")
    assert same(read(tmp_path / "x.pt"), state)


def test_buffers_that_are_not_saved_and_shared_parts(tmp_path, state) -> None:
    def wrap(model, cls):
        model.model[0].register_buffer("grid", torch.ones(5), persistent=False)
        model.model[0].register_parameter("absent", None)
        model.model.append(model.model[1])  # one module in two rows: state_dict lists it twice
        wrap.expected = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        return {"model": model}

    found = read(foreign.write(tmp_path / "x.pt", state, wrap=wrap))
    assert "model.2.cv1.weight" in found.state and same(found, wrap.expected)


def test_memory_layouts_and_views_stay_exact(tmp_path) -> None:
    whole = torch.arange(48.0)
    state = {
        "model.0.conv.weight": torch.rand(4, 3, 3, 3).to(memory_format=torch.channels_last),
        "model.0.bn.weight": whole[8:12],
        "model.0.bn.bias": whole.view(12, 4).t()[1],
    }
    torch.save(state, tmp_path / "x.pt")
    assert same(read(tmp_path / "x.pt"), state)


def test_saved_on_a_gpu(tmp_path, state) -> None:
    content = foreign.members(foreign.write(tmp_path / "x.pt", state))
    moved = content["x/data.pkl"].replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
    assert moved != content["x/data.pkl"]
    found = read(foreign.write_members(tmp_path / "x.pt", {**content, "x/data.pkl": moved}))
    assert same(found, state) and {tensor.device.type for tensor in found.state.values()} == {"cpu"}


# Values.


def test_plain_values_of_every_kind(tmp_path) -> None:
    with foreign.package() as cls:
        space = cls("ultralytics.utils.IterableSimpleNamespace")(imgsz=640, inner=types.SimpleNamespace(a=1))
        torch.save(
            {
                "model": foreign.tree(foreign.small_state(), cls),
                "args": space,
                "opt": argparse.Namespace(lr=0.1),
                "path": Path("/data/x"),
                "other": PureWindowsPath("C:/data/x"),
                "score": np.float32(0.5),
                "flag": np.bool_(True),
                "row": np.arange(6, dtype=np.int32).reshape(2, 3),
                "column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
                "size": torch.Size([1, 2]),
                "kind": torch.float16,
                "device": torch.device("cuda", 0),
                "raw": b"ab\xff",
                "pair": (1, [2.5, None]),
                "set": {"b", "a"},
                "drop": cls(foreign.ROOT),
                "mixed": {"keep": 1, "drop": nn.SiLU()},
                "many": [nn.SiLU()],
                7: "a number",
            },
            tmp_path / "x.pt",
        )
    found = read(tmp_path / "x.pt").attributes
    assert found["args"] == {"imgsz": 640, "inner": {"a": 1}} and found["opt"] == {"lr": 0.1}
    assert found["path"] == "/data/x" and found["other"] == r"C:\data\x"
    assert found["score"] == 0.5 and type(found["score"]) is float and found["flag"] is True
    assert torch.equal(found["row"], torch.arange(6, dtype=torch.int32).view(2, 3))
    assert torch.equal(found["column"], torch.arange(6.0, dtype=torch.float64).view(2, 3))
    assert (found["size"], found["kind"], found["device"]) == ((1, 2), "torch.float16", "cuda:0")
    assert found["raw"] == b"ab\xff"
    assert found["pair"] == (1, [2.5, None]) and found["set"] == ["a", "b"] and found["mixed"] == {"keep": 1}
    assert not {"drop", "many", 7} & set(found)


def test_weights_that_are_not_finite_are_told(tmp_path, state) -> None:
    state["model.0.conv.weight"][0, 0, 0, 0] = float("nan")
    state["model.1.cv1.bias"][1] = float("inf")
    found = read(foreign.write(tmp_path / "x.pt", state))
    assert list(found.state) == list(state)
    assert found.notes == ("2 of 8 tensors hold NaN or infinite values: model.0.conv.weight, model.1.cv1.bias",)


# Independence.


class Blocker:
    """Lets nobody import the packages that made the files."""

    asked: list[str] = []

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ultralytics", "models", "thop", "flash_attn"):
            self.asked.append(name)
            raise ImportError(f"{name} is not to be asked for")
        return None


def test_nothing_asks_for_the_makers_packages(tmp_path, state, monkeypatch) -> None:
    path = foreign.write(tmp_path / "x.pt", state)
    paths = [path, *sorted((SHARED / "checkpoints").glob("*.pt"))]
    blocker = Blocker()
    monkeypatch.setattr(sys, "meta_path", [blocker, *sys.meta_path])
    with pytest.raises(ImportError, match="not to be asked for"):
        import ultralytics  # noqa: F401
    blocker.asked.clear()
    with pytest.raises(ImportError, match="not to be asked for"):
        torch.load(path, weights_only=False)  # the file does need it, for anyone else
    blocker.asked.clear()
    assert all(read(file).state for file in paths)
    assert blocker.asked == [] and "ultralytics" not in sys.modules


def test_a_registered_real_class_never_takes_part(tmp_path, state) -> None:
    class Real:
        woken = False

        def __setstate__(self, values):
            Real.woken = True

    path = foreign.write(tmp_path / "x.pt", state)
    torch.save({"a": 1}, tmp_path / "bad.pt")
    own = set(torch.serialization.get_safe_globals())  # torch registers classes of its own
    real = (Real, "ultralytics.nn.tasks.DetectionModel")
    with torch.serialization.safe_globals([real]):
        assert same(read(path), state) and not Real.woken
        assert set(torch.serialization.get_safe_globals()) == own | {real}
        with pytest.raises(UserError):
            read(tmp_path / "bad.pt")
        assert set(torch.serialization.get_safe_globals()) == own | {real}
    assert set(torch.serialization.get_safe_globals()) == own


def test_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(MissingFileError, match="does not exist, and nothing is downloaded. Its makers publish"):
        read(tmp_path / "yolov12n.pt")
