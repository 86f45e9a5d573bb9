"""Weights taken over by name and shape into another graph, and what is refused."""

from __future__ import annotations

import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.build import build, with_classes
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
from bitfalcon_plugin.models.weights.transfer import COUNTER, transfer
from bitfalcon_plugin.ops.keypoint_layout import KeypointLayout
from bitfalcon_plugin.train.setup import freeze
from tests.helpers.exports import tiny_pose

NAMES = {0: "cat", 1: "dog"}


def checkpoint_of(graph: str, scale: str = "n", **options) -> Checkpoint:
    torch.manual_seed(1)
    options.setdefault("names", NAMES)
    model = build(graph, scale, nc=len(options["names"]), **options)
    return Checkpoint(model.graph, model.state_dict())


@pytest.fixture(scope="module")
def v1() -> Checkpoint:
    return checkpoint_of("yolov12.yaml")


def fresh(graph: str, scale: str = "n", **options) -> Detector:
    torch.manual_seed(2)
    return build(graph, scale, nc=2, **{"names": NAMES, **options})


def same_shapes(model: Detector, checkpoint: Checkpoint) -> set[str]:
    """Names of the tensors of equal shape; counters of batch norms where the running mean has it."""
    state = model.state_dict()
    names = {name for name, value in checkpoint.state.items() if name in state and state[name].shape == value.shape}
    return {name for name in names if not name.endswith(COUNTER) or name.replace(COUNTER, "running_mean") in names}


@pytest.mark.parametrize(
    "graph", ["yolov12-seg.yaml", "yolov12-p2.yaml", "yolov12-p6.yaml", "yolo11.yaml", "yolov8.yaml"]
)
def test_what_fits_by_name_and_shape_is_taken_over_and_the_rest_is_fresh(graph, v1):
    model = fresh(graph)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fits = same_shapes(model, v1)
    result = transfer(model, v1, "a.pt")
    assert (result.copied, result.total) == (len(fits), len(before)) and 0 < len(fits) < len(before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, v1.state[name] if name in fits else before[name]), name
    first = next(name for name in before if name not in fits)
    assert result.misfit.startswith(f"{first} is ")
    assert f"{len(fits)} of {len(before)} tensors fit and are taken over" in str(result)


def test_the_weights_of_the_same_graph_fit_whole(v1):
    result = transfer(fresh("yolov12.yaml"), v1, "a.pt")
    assert (result.copied, result.total, result.misfit) == (691, 691, "") and "kept      691 tensors" in str(result)
    to_segment = transfer(fresh("yolov12-seg.yaml"), v1, "a.pt")
    assert to_segment.copied == 691 and to_segment.misfit == "model.21.proto.cv1.conv.weight is not in the file"


def test_classes_go_by_name_also_into_another_graph(v1):
    model = fresh("yolov12-seg.yaml", names={0: "bird", 1: "Cat"})
    result = transfer(model, v1, "a.pt")
    assert (result.remapped, result.new, result.dropped) == (("Cat",), ("bird",), ("dog",))
    for level in range(3):
        name = f"model.21.cv3.{level}.2.weight"
        assert torch.equal(model.state_dict()[name][1], v1.state[name][0])
    other = fresh("yolov12.yaml", "s", names={0: "bird", 1: "Cat"})
    with pytest.raises(UserError, match="tensors of the graph fit"):
        transfer(other, v1, "a.pt")


def test_a_head_of_another_width_leaves_the_classes_fresh():
    checkpoint = checkpoint_of("yolov12.yaml", names={index: f"class {index}" for index in range(90)})
    model = fresh("yolov12.yaml", names={0: "class 0", 1: "class 1"})
    result = transfer(model, checkpoint, "a.pt")
    assert result.remapped == () and result.new == ("class 0", "class 1")
    assert result.misfit.startswith("model.21.cv3.0.0.1.conv.weight is (90, 64, 1, 1) in the file and (64, 64, 1, 1)")


@pytest.mark.parametrize(
    ("graph", "scale", "variant", "words"),
    [
        ("yolov12.yaml", "s", None, "Give scale=n"),  # only counters of batch norms fit
        ("yolov12.yaml", "n", "turbo", "Give variant=v1"),
        ("yolov12-turbo.yaml", "n", "turbo-all-residual", "rows 1 and 3 grouped"),
    ],
)
def test_what_has_another_meaning_or_hardly_fits_is_refused(graph, scale, variant, words, v1):
    model = fresh(graph, scale, variant=variant)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=words) as error:
        transfer(model, v1, "a.pt")
    assert "tensors of the graph fit" in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_variant_without_attention_is_none(v1):
    model = fresh("yolov12-turbo.yaml", variant="turbo")
    assert transfer(model, checkpoint_of("yolo11.yaml"), "a.pt").copied > 0


def test_strict_refuses_any_misfit(v1):
    with pytest.raises(UserError, match="do not fit yolov12-seg.yaml.*62 tensors differ") as error:
        transfer(fresh("yolov12-seg.yaml"), v1, "a.pt", strict=True)
    assert "of the graph fit" not in str(error.value)
    assert transfer(fresh("yolov12.yaml"), v1, "a.pt", strict=True).misfit == ""


def test_constants_of_batch_norms_go_with_their_weights(v1):
    norms = {"model.0.bn": (0.5, 0.25), "model.2.cv1.bn": (0.5, 0.25), "model.20.cv1.bn": (0.5, 0.25)}
    model = fresh("yolov12-p2.yaml")
    fits = same_shapes(model, v1)
    transfer(model, Checkpoint(v1.graph, v1.state, norms=norms), "a.pt")
    modules = dict(model.named_modules())
    for name in norms:
        assert (modules[name].eps == 0.5) == (f"{name}.weight" in fits)


def test_load_says_in_one_line_how_much_fits(v1, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint("a.pt", v1)
    yolo = YOLO("yolov12n-seg.yaml").load("a.pt")
    assert torch.equal(yolo.model.model[0].conv.weight, v1.state["model.0.conv.weight"])
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "a.pt" in line)
    assert "tensors fit and are taken over; the first that does not: model.21." in line
    with pytest.raises(UserError, match="do not fit"):
        _ = YOLO("yolov12n-seg.yaml").load("a.pt", strict=True).model
    save_checkpoint("seg.pt", checkpoint_of("yolov12-seg.yaml"))
    again = YOLO("seg.pt").load("a.pt")
    assert "691 of" in capsys.readouterr().err
    assert torch.equal(again.model.model[8].cv1.conv.weight, v1.state["model.8.cv1.conv.weight"])


@pytest.mark.parametrize("graph", ["yolov12-pose.yaml", "yolov12-obb.yaml"])
def test_detection_weights_go_into_pose_and_obb(graph, v1):
    model = fresh(graph)
    result = transfer(model, v1, "a.pt")
    assert (result.copied, result.total) == (691, 733)
    assert result.counts.startswith(
        "691 of 733 tensors fit and are taken over; the first that does not: model.21.cv4.0."
    )


def test_keypoints_of_another_number_stay_fresh():
    layout = KeypointLayout(30, 3)
    checkpoint, model = checkpoint_of("yolov8-pose.yaml"), fresh("yolov8-pose.yaml")
    model = Detector(with_classes(model.graph, NAMES, keypoints=layout))
    result = transfer(model, checkpoint, "a.pt")
    assert result.total - result.copied == sum(".cv4." in name for name in model.state_dict()) == 42
    assert result.misfit.startswith("model.22.cv4.0.0.conv.weight is (51, 64, 3, 3) in the file and (90, 64, 3, 3)")


def test_as_many_numbers_of_other_keypoints_stay_fresh_too():
    model = tiny_pose(columns=2)  # three keypoints x y, six numbers
    layout = KeypointLayout(2, 3)  # two keypoints x y visibility
    other = Detector(with_classes(model.graph, model.names, keypoints=layout))
    checkpoint = Checkpoint(other.graph, other.state_dict())
    before = model.head.cv4[0][-1].weight.clone()
    result = transfer(model, checkpoint, "a.pt")
    assert result.total - result.copied == 2 and torch.equal(model.head.cv4[0][-1].weight, before)
    assert result.misfit == "model.3.cv4.0.2.weight is for kpt_shape [2, 3] in the file and [3, 2] here"
    with pytest.raises(UserError, match="2 tensors differ"):
        transfer(model, checkpoint, "a.pt", strict=True)


@pytest.mark.parametrize("graph", ["yolov12", "yolo11", "yolov8"])
def test_a_detection_backbone_goes_into_a_classification_graph(graph):
    checkpoint, model = checkpoint_of(f"{graph}.yaml"), fresh(f"{graph}-cls.yaml")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = transfer(model, checkpoint, "a.pt")
    last = f"model.{len(model.model) - 1}."
    fits = same_shapes(model, checkpoint)
    assert {name for name in before if int(name.split(".")[1]) < 9} <= fits and result.copied == len(fits)
    assert result.misfit.startswith("model.9.") and not any(name.startswith(last) for name in fits)
    for name, value in model.state_dict().items():
        assert torch.equal(value, checkpoint.state[name] if name in fits else before[name]), name
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}
    frozen = freeze(model, 9)
    assert {int(name.split(".")[1]) for name in frozen} == set(range(9))
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if name.startswith(last))
    with pytest.raises(UserError, match=rf"names are like {last[6:-1]}.conv"):
        freeze(model, "nothing")


def test_classes_of_a_classification_model_go_by_name():
    checkpoint = checkpoint_of("yolov12-cls.yaml")
    model = fresh("yolov12-cls.yaml", names={0: "Dog", 1: "bird"})
    result = transfer(model, checkpoint, "a.pt")
    assert (result.remapped, result.new, result.dropped) == (("Dog",), ("bird",), ("cat",))
    for part in ("weight", "bias"):
        linear = model.state_dict()[f"model.9.linear.{part}"]
        assert torch.equal(linear[0], checkpoint.state[f"model.9.linear.{part}"][1])
    assert torch.equal(model.head.conv.conv.weight, checkpoint.state["model.9.conv.conv.weight"])
    assert transfer(fresh("yolov12-cls.yaml"), checkpoint, "a.pt", strict=True).copied == 350
