"""Nothing mixes tensors of the CPU with those of another device, in the networks, losses and detections of every task.

Networks run on torch's fake tensors of CUDA. What asks for numbers runs on tensors that hold them (helpers/elsewhere).
"""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bitfalcon_plugin.data.augmentation.mixing import stamp_
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.letterbox import Fit
from bitfalcon_plugin.ops.nms import Suppression
from bitfalcon_plugin.ops.polygons import Polygons
from bitfalcon_plugin.tasks import TASKS
from bitfalcon_plugin.tasks.detect import Decoded
from tests.helpers.elsewhere import OTHER, Devices, Elsewhere, MixedDevices, replace_tensors, send

GRAPHS = {
    "detect": ("yolov12.yaml", "yolov12-turbo.yaml", "yolo11.yaml", "yolov8.yaml"),
    "segment": ("yolov12-seg.yaml", "yolo11-seg.yaml", "yolov8-seg.yaml"),
    "classify": ("yolov12-cls.yaml", "yolo11-cls.yaml", "yolov8-cls.yaml"),
}
SIDE = 64


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("graph", [graph for graphs in GRAPHS.values() for graph in graphs])
def test_a_network_stays_on_cuda(graph, train):
    model = build(graph, "n", nc=3).train(train)
    with FakeTensorMode(), torch.no_grad():
        replace_tensors(model, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda"))
        raw = model(torch.empty(2, 3, SIDE, SIDE, device="cuda"))
        decoded = model.decode(raw)
    assert decoded.is_cuda and all(value.is_cuda for value in raw.values())
    assert decoded.shape[:2] == ((2, 3) if "logits" in raw else (2, 4 + 3 + 32 * ("prototypes" in raw)))


def labels_of(task) -> Instances:
    boxes = torch.tensor([[4.0, 4, 40, 40], [10, 10, 60, 50], [3, 3, 30, 20]])
    if not task.objects:
        boxes = torch.tensor([[0.0, 0, SIDE, SIDE]] * 2)
    outlines = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    polygons = Polygons(outlines, torch.full((len(boxes),), 4))
    return Instances(boxes, torch.arange(len(boxes)), image=torch.tensor([0, 1, 1])[: len(boxes)], polygons=polygons)


@pytest.fixture
def without_autocast(monkeypatch):
    """The stand-in of a device has no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)


@pytest.mark.parametrize("name", GRAPHS)
def test_losses_and_gradients_stay_on_their_device_and_are_those_of_the_cpu(name, without_autocast):
    task, torch_seed = TASKS[name], torch.manual_seed(0)
    here = build(GRAPHS[name][0], "n", nc=3).train()
    images, labels = torch.rand(2, 3, SIDE, SIDE, generator=torch_seed), labels_of(task)
    there = send(copy.deepcopy(here))
    expected, found = loss_of(task, here, images, labels), None
    with Devices():
        found = loss_of(task, there, Elsewhere(images), labels.to(OTHER))
    assert list(found) == list(task.losses) and all(isinstance(value, Elsewhere) for value in found.values())
    for key, value in expected.items():
        torch.testing.assert_close(found[key].held, value.detach())
    for ours, theirs in zip(here.parameters(), there.parameters()):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            assert (theirs.grad.held - ours.grad).norm() <= 1e-4 * ours.grad.norm() + 1e-6


def loss_of(task, model, images, labels) -> dict[str, torch.Tensor]:
    raw = model(images)
    losses = task.loss(raw, labels, sizes=raw.sizes, strides=model.strides, gains=dict.fromkeys(task.losses, 1.0))
    sum(losses.values()).backward()
    return losses


@pytest.mark.parametrize("full_size", [False, True])
@pytest.mark.parametrize("name", GRAPHS)
def test_detections_and_masks_stay_on_their_device_and_are_those_of_the_cpu(name, full_size, without_autocast):
    task = TASKS[name]
    torch.manual_seed(0)
    here = build(GRAPHS[name][0], "n", nc=3).eval()
    images = torch.rand(2, 3, SIDE, SIDE)
    there = send(copy.deepcopy(here))
    with torch.no_grad():
        expected = placed(task, here, images, full_size)
        with Devices():
            found = placed(task, there, Elsewhere(images), full_size)
    for ours, theirs in zip(expected, found, strict=True):
        assert len(ours) == len(theirs) and isinstance(theirs.boxes, Elsewhere)
        torch.testing.assert_close(theirs.boxes.held, ours.boxes, rtol=1e-4, atol=1e-3)
        if ours.patches is not None:
            with Devices():
                planes = theirs.patches.planes()
            assert isinstance(planes, Elsewhere) and len(planes)
            differing = (planes.held != ours.patches.planes()).sum()
            assert differing <= 1e-4 * planes.numel() and theirs.patches.encode().codes[0]["size"] == list(
                planes.shape[1:]
            )


def placed(task, model, images, full_size: bool) -> list[Instances]:
    decoded = Decoded.of(model, model(images), (SIDE, SIDE))
    fit = Fit((50, 100), (32, SIDE), (SIDE, SIDE), (16, 0))
    planes = [None, None] if decoded.prototypes is None else decoded.prototypes
    detections = task.decode(decoded, Suppression(conf=0.0, max_det=7))
    found = [task.place(each, fit, plane, full_size) for each, plane in zip(detections, planes)]
    return [each.only(each.visible) for each in found]


def test_what_mixes_devices_is_refused():
    here, there = torch.rand(3), Elsewhere(torch.rand(3))
    with Devices(), pytest.raises(MixedDevices, match="add.Tensor got a tensor"):
        there + here
    with Devices():
        mixed = (
            there + torch.tensor(2.0) + there[torch.tensor([2, 1, 0])] + here.to(OTHER) + torch.ones(3, device=OTHER)
        )
        assert isinstance(mixed, Elsewhere) and not isinstance(mixed.cpu(), Elsewhere)


def test_pasted_objects_are_copied_on_the_device_of_the_images():
    image, source = torch.zeros(3, 8, 8), torch.rand(3, 8, 8)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5, 1:7] = True
    there = Elsewhere(image.clone())
    with Devices():
        stamp_(there, Elsewhere(source), mask, mirrored=True)
    stamp_(image, source, mask, mirrored=True)
    assert torch.equal(there.held, image) and image.any()
