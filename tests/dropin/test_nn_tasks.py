"""Networks of dropin.nn.tasks and the AutoBackend, as scripts build, read, load and change them."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin.nn import autobackend, tasks
from bitfalcon_plugin.dropin.utils import ops
from bitfalcon_plugin.dropin.utils.loss import v8DetectionLoss
from bitfalcon_plugin.models.modules import MODULES
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
from tests.helpers.tiny_models import CONV, small, small_model

DOCUMENT = small(CONV, (-1, 1, "C2f", [16, True]), CONV)
BATCH = {
    "img": torch.rand(2, 3, 64, 64),
    "batch_idx": torch.tensor([0.0, 1]),
    "cls": torch.tensor([[0.0], [1]]),
    "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.4, 0.3]]),
}


@pytest.fixture
def network() -> tasks.DetectionModel:
    torch.manual_seed(0)
    return tasks.DetectionModel(DOCUMENT, verbose=False)


def test_a_network_of_a_document(network):
    assert (network.nc, network.names, network.task) == (2, {0: "0", 1: "1"}, "detect")
    assert network.stride.tolist() == [4.0] and isinstance(network.model, nn.Sequential) and len(network.model) == 4
    assert network.yaml["nc"] == 2 and network.yaml["backbone"] == DOCUMENT["backbone"] and network.save == []
    assert [row.i for row in network.model] == [0, 1, 2, 3] and network.model[1].f == -1
    assert list(network.state_dict())[0] == "model.0.conv.weight" and network.args == {} and network.criterion is None
    maps = network(BATCH["img"])
    assert [tuple(level.shape) for level in maps] == [(2, 66, 16, 16)]
    y, again = network.eval()(BATCH["img"], augment=False, profile=False, visualize=False)
    assert y.shape == (2, 6, 256) and again[0].shape == maps[0].shape and network.predict(BATCH["img"])[0].equal(y)
    assert DOCUMENT["nc"] == 2 and "scale" not in DOCUMENT


def test_losses(network):
    total, items = network(BATCH)
    assert items.shape == (3,) and total.requires_grad
    torch.testing.assert_close(total, 2 * items.sum())
    again = v8DetectionLoss(network)(network(BATCH["img"]), BATCH)[1]
    torch.testing.assert_close(network.init_criterion()(network(BATCH["img"]), BATCH)[1], again)


def test_names_channels_and_classes(capsys):
    network = tasks.DetectionModel("yolov8n.yaml", nc=3)
    out = capsys.readouterr().out
    assert network.nc == 3 and network.yaml["scale"] == "n" and network.yaml["yaml_file"] == "yolov8n.yaml"
    assert "nc=80 of the model becomes nc=3" in out and "C2f" in out and "parameters" in out
    assert network.save == [4, 6, 9, 12, 15, 18]
    grey = tasks.DetectionModel(DOCUMENT, ch=1, verbose=False)
    assert grey.model[0].conv.in_channels == 1
    with pytest.raises(UserError):
        tasks.DetectionModel("nothing.yaml")


def test_kinds_of_networks(network):
    segmenter = tasks.SegmentationModel(small(CONV, head=[([-1], 1, "Segment", ["nc", 8, 16])]), verbose=False)
    assert isinstance(segmenter, tasks.DetectionModel) and segmenter.task == "segment"
    assert isinstance(network, tasks.BaseModel) and not isinstance(network, tasks.SegmentationModel)
    plain = small_model(CONV)
    assert isinstance(plain, tasks.DetectionModel) and not isinstance(nn.Linear(1, 1), tasks.BaseModel)

    class Mine(tasks.DetectionModel):
        pass

    mine = Mine(DOCUMENT, verbose=False)
    assert isinstance(mine, tasks.DetectionModel) and not isinstance(plain, Mine) and type(copy.deepcopy(mine)) is Mine
    with pytest.raises(UserError, match="transformer"):
        tasks.RTDETRDetectionModel("x.yaml")


def test_weights_that_fit_are_taken_over(network, capsys):
    other = tasks.DetectionModel({**DOCUMENT, "nc": 5}, verbose=False)
    network.load(other)
    assert f"Transferred {len(other.state_dict()) - 2}/{len(network.state_dict())} items" in capsys.readouterr().out
    assert torch.equal(network.model[0].conv.weight, other.model[0].conv.weight)
    twin = tasks.DetectionModel(DOCUMENT, verbose=False)
    twin.load({"model": network}, verbose=False)
    assert all(torch.equal(a, b) for a, b in zip(twin.state_dict().values(), network.state_dict().values()))
    assert network.info(imgsz=64)[1] == sum(parameter.numel() for parameter in network.parameters())


def test_folding_and_copies(network):
    x = BATCH["img"]
    before = network.eval()(x)[0]
    copied = copy.deepcopy(network)
    assert type(copied) is tasks.DetectionModel and copied(x)[0].equal(before)
    assert not copied.is_fused(1) and copied.fuse() is copied and copied.is_fused(1)
    torch.testing.assert_close(copied(x)[0], before, rtol=1e-4, atol=1e-3)


@pytest.fixture
def checkpoint(tmp_path, network):
    path = tmp_path / "best.pt"
    graph = network.graph
    settings = {"imgsz": 64}
    save_checkpoint(path, Checkpoint(graph, network.state_dict(), settings=settings, epoch=4, license="MIT"))
    return path


def test_checkpoints(checkpoint, network, capsys):
    expected = network.eval()(BATCH["img"])[0]
    for loaded in (
        tasks.attempt_load_weights(checkpoint),
        tasks.attempt_load_weights([str(checkpoint)], device="cpu", inplace=True, fuse=False),
        tasks.attempt_load_one_weight(checkpoint)[0],
        tasks.load_checkpoint(checkpoint)[0],
        tasks.torch_safe_load(checkpoint)[0]["model"],
    ):
        assert type(loaded) is tasks.DetectionModel and not loaded.training
        torch.testing.assert_close(loaded(BATCH["img"])[0], expected)
        assert loaded.args["imgsz"] == 64 and loaded.pt_path == str(checkpoint)
    content, path = tasks.torch_safe_load(checkpoint)
    assert path == str(checkpoint) and (content["epoch"], content["license"], content["ema"]) == (4, "MIT", None)
    assert content["train_args"] == {"imgsz": 64} and "best_fitness" in content
    fused = tasks.attempt_load_weights(checkpoint, fuse=True)
    assert fused.is_fused(1) and capsys.readouterr().out == ""
    both = tasks.attempt_load_weights([checkpoint, checkpoint])
    y, nothing = both(BATCH["img"])
    assert nothing is None and y.shape == (2, 6, 512) and torch.equal(y[..., :256], y[..., 256:])
    assert both.names == network.names and both.stride.tolist() == [4.0]
    with pytest.raises(FileNotFoundError):
        tasks.torch_safe_load("none.pt")


def test_the_network_of_a_yolo_object_is_of_its_kind(checkpoint):
    model = YOLO(str(checkpoint))
    assert isinstance(model.model, tasks.DetectionModel) and not isinstance(model.model, tasks.PoseModel)
    wider = tasks.as_wider(model.model)
    assert type(wider) is tasks.DetectionModel and wider is model.model
    assert wider.info(imgsz=64, verbose=True)[1] == sum(parameter.numel() for parameter in wider.parameters())
    buffer = io.BytesIO()
    torch.save(wider, buffer)
    assert len(buffer.getvalue()) > 1000


def test_parts_of_the_parser():
    rows, save = tasks.parse_model(DOCUMENT, ch=[3], verbose=False)
    assert isinstance(rows, nn.Sequential) and save == [] and type(rows[1]).__name__ == "C2f" and rows[0].np > 0
    loaded = tasks.yaml_model_load("yolov12s.yaml")
    assert loaded["scale"] == "s" and loaded["yaml_file"] == "yolov12s.yaml" and loaded["nc"] == 80
    assert [tasks.guess_model_scale(name) for name in ("yolov8x.yaml", "a/yolo12n-seg.yaml", "yolo12.yaml")] == [
        "x",
        "n",
        "",
    ]


def test_tasks_are_guessed(network, capsys):
    names = {"yolov8n-seg.pt": "segment", "yolo11-cls.yaml": "classify", "yolo12n-pose.pt": "pose", "x-obb.pt": "obb"}
    assert all(tasks.guess_model_task(name) == task for name, task in names.items())
    assert tasks.guess_model_task("yolov12n.yaml") == tasks.guess_model_task(DOCUMENT) == "detect"
    assert tasks.guess_model_task(network) == "detect" and capsys.readouterr().out == ""
    assert tasks.guess_model_task(nn.Linear(1, 1)) == "detect" and tasks.guess_model_task("what.pt") == "detect"
    assert capsys.readouterr().out.count("assuming 'task=detect'") == 2


def test_modules_of_a_script_are_words_of_the_graph_language():
    class Squeeze(nn.Module):
        def __init__(self, channels: int, factor: float = 1.0):
            super().__init__()
            self.factor = nn.Parameter(torch.full((channels, 1, 1), factor))

        def forward(self, x):
            return x * self.factor

    class MyConv(tasks.Conv):
        pass

    before = dict(MODULES)
    try:
        tasks.Squeeze = Squeeze
        tasks.Conv = MyConv
        network = tasks.DetectionModel(small(CONV, (-1, 1, "Squeeze", [16, 0.5]), CONV), verbose=False)
        assert type(network.model[1]) is Squeeze and network.model[1].factor.tolist()[0] == [[0.5]]
        assert type(network.model[0]) is MyConv
    finally:
        MODULES.clear()
        MODULES.update(before)
        del tasks.Squeeze
        tasks.__dict__["Conv"] = MyConv.__mro__[1]


def test_one_object_over_files(checkpoint, network, tmp_path):
    x = BATCH["img"]
    expected = network.eval()(x)[0]
    backend = autobackend.AutoBackend(str(checkpoint), torch.device("cpu"))
    y, maps = backend(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-3)
    assert backend.pt and not backend.onnx and backend.names == {0: "0", 1: "1"} and backend.stride == 4
    assert backend.task == "detect" and backend.fp16 is False and len(maps) == 1
    torch.testing.assert_close(ops.non_max_suppression(backend(x), 0.0)[0], ops.non_max_suppression(y, 0.0)[0])
    backend.warmup()
    whole = autobackend.AutoBackend(network, fuse=False)
    assert whole(x)[0].equal(expected) and whole.eval() is whole
    written = YOLO(str(checkpoint)).export(format="torchscript", imgsz=64, batch=2)
    exported = autobackend.AutoBackend(written)
    torch.testing.assert_close(exported(x), expected, rtol=1e-3, atol=1e-2)
    assert exported.jit and not exported.pt and exported.imgsz == [64, 64] and exported.metadata["names"]


def test_names_of_classes(tmp_path):
    assert (
        autobackend.check_class_names(["a", "b"])
        == autobackend.check_class_names({"0": "a", 1: "b"})
        == {0: "a", 1: "b"}
    )
    with pytest.raises(KeyError, match="expected 0 to 1"):
        autobackend.check_class_names({1: "a", 2: "b"})
    assert len(autobackend.default_class_names()) == 999
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\n")
    assert autobackend.default_class_names(tmp_path / "data.yaml") == {0: "cat", 1: "dog"}
