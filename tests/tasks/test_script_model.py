"""The network that YOLO.model gives to scripts: outputs, hooks, losses, pruning and copies."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks.detect import detection_loss
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.small_yolo import predict_boxes, same_boxes, save_weights

SIZES = [(8, 12), (4, 6)]  # cells of the levels of small.yaml in an image of 64 x 96 pixels, strides 8 and 16


@pytest.fixture()
def yolo(place):  # noqa: F811
    return YOLO(save_weights(place, "x.pt", license="MIT"))


def image(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def batch() -> dict[str, torch.Tensor]:
    return {
        "img": image(),
        "batch_idx": torch.tensor([0.0, 1.0, 1.0]),
        "cls": torch.tensor([[0.0], [2.0], [1.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.25, 0.5], [0.25, 0.5, 0.3, 0.3], [0.75, 0.25, 0.2, 0.4]]),
    }


def decoded(maps: list[np.ndarray]) -> np.ndarray:
    """Decode maps (B, 67, h, w) cell by cell in numpy: (B, 7, A)."""
    columns = []
    for level, stride in zip(maps, (8, 16)):
        for y in range(level.shape[2]):
            for x in range(level.shape[3]):
                cell = level[:, :, y, x].astype(np.float64)
                shares = np.exp(cell[:, :64].reshape(-1, 4, 16))
                left, top, right, bottom = (shares / shares.sum(-1, keepdims=True) @ np.arange(16)).T
                centre = x + 0.5 + (right - left) / 2, y + 0.5 + (bottom - top) / 2
                box = np.stack([*centre, left + right, top + bottom], 1) * stride
                columns.append(np.concatenate((box, 1 / (1 + np.exp(-cell[:, 64:]))), 1))
    return np.stack(columns, 2)


def test_evaluation_gives_decoded_boxes_and_maps_and_training_the_maps(yolo):
    net = yolo.model
    assert not net.training and not yolo.model.model[-1].training
    y, maps = net(image())
    assert y.shape == (2, 7, 120) and [tuple(x.shape[1:]) for x in maps] == [(67, *size) for size in SIZES]
    np.testing.assert_allclose(y.detach(), decoded([x.detach().numpy() for x in maps]), rtol=1e-4, atol=1e-3)
    head = net.model[-1]
    assert torch.equal(net(image(), profile=True, visualize=False)[0], y) and torch.equal(net.predict(image())[0], y)
    features = [image()]
    for row in net.model[:-1]:  # small.yaml is a chain up to the head
        features.append(row(features[-1]))
    assert torch.equal(head([features[4], features[5]])[0], y)
    head.export = True
    assert torch.equal(net(image()), y)
    same = net.train()(image())
    assert isinstance(same, list) and [x.shape for x in same] == [x.shape for x in maps]


def test_the_package_itself_computes_raw_outputs(yolo):
    net = yolo.model
    y, maps = net(image())
    raw = yolo._network(image())
    assert torch.equal(yolo._network.decode(raw), y) and all(map(torch.equal, raw.levels(), maps))
    assert torch.equal(raw[0], maps[0]) and torch.equal(raw[-1], maps[-1]) and "boxes" in raw
    with pytest.raises(IndexError):
        raw[2]
    with pytest.raises(KeyError, match="feats"):
        raw["feats"]
    with torch.autocast("cpu", dtype=torch.bfloat16):  # decoding is in float32
        assert net(image())[0].dtype == torch.float32
    augmented, nothing = net(image(), augment=True)
    torch.testing.assert_close(augmented[:, :, :120], y)
    assert augmented.shape[2] > 120 and nothing is None


def test_rows_head_and_network_have_the_attributes_that_scripts_read(yolo):
    net = yolo.model
    head = net.model[-1]
    assert isinstance(net, nn.Module) and isinstance(net.model, nn.Sequential) and isinstance(net, Detector)
    assert (head.nc, head.nl, head.no, head.reg_max, head.stride.tolist()) == (3, 2, 67, 16, [8.0, 16.0])
    assert type(head).__name__ == "Detect" and head.type.endswith("Detect")
    assert [row.i for row in net.model] == list(range(6)) and [row.f for row in net.model] == [-1] * 5 + [[3, 4]]
    assert [row.np for row in net.model] == [sum(p.numel() for p in row.parameters()) for row in net.model]
    assert net.model[2].type.endswith("C3k2") and sum(row.np for row in net.model) == yolo.info(verbose=False)[1]
    assert net.args is yolo.overrides and net.yaml["nc"] == net.nc == 3 and net.yaml["head"] and net.yaml["backbone"]
    assert net.names is yolo.model.names and net.stride.max() == 16 and net.task == "detect" and net.save == [3]
    assert list(net.state_dict()) == list(yolo._network.state_dict()) and not net.is_fused()
    assert next(iter(net.state_dict())) == "model.0.conv.weight"
    assert isinstance(net.model[:3], nn.Sequential) and net.model[:3](image()).shape == (2, 16, 16, 24)


def test_losses_of_a_batch_are_those_of_training(yolo):
    net, given = yolo.model, batch()
    total, items = net(given)
    w, h = 96, 64
    boxes = torch.tensor([[36, 16, 60, 48], [0.1 * w, 0.35 * h, 0.4 * w, 0.65 * h], [62.4, 0.05 * h, 81.6, 0.45 * h]])
    labels = Instances(boxes, torch.tensor([0, 2, 1]), image=torch.tensor([0, 1, 1]))
    raw = yolo._network(given["img"])
    losses = torch.stack([*detection_loss(raw, labels, sizes=SIZES, strides=(8, 16)).values()])
    torch.testing.assert_close(items, losses.detach())
    torch.testing.assert_close(total, 2 * losses.sum())
    total.backward()
    assert net.model[0].conv.weight.grad.abs().sum() > 0 and not items.requires_grad
    net.args["cls"] = 1.0  # twice the gain
    torch.testing.assert_close(net.loss(given)[1], items * torch.tensor([1.0, 2.0, 1.0]))
    bytes_ = {**given, "img": (given["img"] * 255).byte()}
    torch.testing.assert_close(
        net.loss(bytes_)[1], net.loss({**bytes_, "img": bytes_["img"].float() / 255})[1], rtol=0, atol=0
    )
    preds = net.train()(given["img"])
    torch.testing.assert_close(net.init_criterion()(preds, given)[1], net.loss(given, preds)[1])
    nothing = {key: value[:0] for key, value in given.items() if key != "img"}
    assert net.loss({"img": given["img"], **nothing})[1][[0, 2]].eq(0).all()


def test_hooks_see_predictions_and_validations(yolo):
    seen, expected = [], predict_boxes(yolo)  # before: the quick copy of the network has no hooks
    net = yolo.model
    layer, head = net.model[-4], net.model[-1]
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output: seen.append((module, output))),
        head.register_forward_hook(lambda module, inputs, output: seen.append((module, output[0]))),
        net.register_forward_hook(lambda module, inputs, output: seen.append((module, output[0]))),
        net.model[0].conv.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs[0]))),
    ]
    torch.testing.assert_close(torch.cat(predict_boxes(yolo)), torch.cat(expected), rtol=1e-4, atol=1e-2)
    assert len(seen) == 16 and [module for module, _ in seen[:4]] == [net.model[0].conv, layer, head, net]
    assert [tuple(tensor.shape) for _, tensor in seen[:4]] == [(1, 3, 48, 64), (1, 16, 12, 16), (1, 7, 60), (1, 7, 60)]
    yolo.val(data="data/data.yaml", imgsz=64, batch=4, plots=False, verbose=False, device="cpu")
    assert len(seen) == 20
    for hook in hooks:
        hook.remove()
    assert same_boxes(predict_boxes(yolo), expected) and len(seen) == 20


def test_gradients_of_a_layer(yolo):
    """Grad-CAM: gradients of the best class score for the maps of a row."""
    net, kept = yolo.model, {}
    net.model[4].register_forward_hook(lambda module, inputs, output: kept.update(maps=output))
    net.model[4].register_full_backward_hook(lambda module, inputs, outputs: kept.update(gradients=outputs[0]))
    pixels = image(1).requires_grad_()
    net(pixels)[0][:, 4:].max().backward()
    cam = (kept["gradients"].mean((2, 3), keepdim=True) * kept["maps"]).sum(1).relu()
    assert cam.shape == (1, 4, 6) and pixels.grad.abs().sum() > 0


def test_pruning_holds_in_predictions_and_files(yolo, place):  # noqa: F811
    convolutions = [module for module in yolo.model.modules() if isinstance(module, nn.Conv2d)]
    expected = predict_boxes(yolo)
    for module in convolutions:
        prune.l1_unstructured(module, "weight", amount=0.5)
    masked = predict_boxes(yolo)
    assert not same_boxes(masked, expected)
    with pytest.raises(UserError, match=r"(?s)changed the layers.*function `remove`.*weight_orig"):
        yolo.save("pruned.pt")
    for module in convolutions:
        prune.remove(module, "weight")
    yolo.save("pruned.pt")
    again = YOLO("pruned.pt")
    assert (again.model.model[1].conv.weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)
    torch.testing.assert_close(torch.cat(predict_boxes(again)), torch.cat(masked), rtol=1e-4, atol=1e-2)


def test_layers_that_a_script_puts_in_are_used(yolo):
    net, expected = yolo.model, predict_boxes(yolo)

    class Dark(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x):
            return 0 * self.block(x)

    net.model[1] = Dark(net.model[1])
    net.names = {0: "a", 1: "b", 2: "c"}
    dark = predict_boxes(yolo)
    assert len({tuple(boxes.shape) for boxes in dark}) == 1 and not same_boxes(dark, expected)
    assert yolo.names == {0: "a", 1: "b", 2: "c"} and yolo.model is net
    y, _ = net(image())
    assert torch.equal(y[0], y[1])  # every image gives the same


def test_a_profiler_that_adds_buffers_and_hooks_leaves_nothing(yolo):
    """What thop does: a buffer and a hook on each layer, one pass, all removed."""
    net, expected = copy.deepcopy(yolo.model), yolo.model(image())[0]
    handles = []

    def count(module, inputs, output):
        output = output[0] if isinstance(output, (tuple, list)) else output
        module.total_ops += torch.tensor([float(output.numel())])

    for module in net.modules():
        module.register_buffer("total_ops", torch.zeros(1))
        handles.append(module.register_forward_hook(count))
    net(image())
    unused = [name for name, module in net.named_modules() if not module.total_ops]
    assert [name for name in unused if isinstance(net.get_submodule(name), nn.Conv2d)] == ["model.5.dfl.conv"]
    for module, handle in zip(net.modules(), handles):
        handle.remove()
        del module._buffers["total_ops"]
    assert torch.equal(net(image())[0], expected) and list(net.state_dict()) == list(yolo.model.state_dict())


def test_embeddings_and_fusing(yolo):
    net = yolo.model
    vectors = net(image(), embed=[1, 4])
    with torch.no_grad():
        x, maps = image(), []
        for row in net.model[:-1]:
            x = row(x)
            maps.append(x.mean((2, 3)))
    assert len(vectors) == 2
    torch.testing.assert_close(torch.stack(vectors), torch.cat((maps[1], maps[4]), 1))
    y = net(image())[0]
    assert net.fuse(verbose=False) is net and net.is_fused()
    torch.testing.assert_close(net(image())[0], y, rtol=1e-4, atol=1e-3)


def test_a_copy_is_independent(yolo):
    net = yolo.model
    other = copy.deepcopy(net)
    y = net(image())[0]
    assert torch.equal(other(image())[0], y) and other.model[-1].stride.tolist() == [8, 16]
    with torch.no_grad():
        other.model[0].conv.weight.zero_()
    other.args["imgsz"] = 1
    assert not torch.equal(other(image())[0], y) and torch.equal(net(image())[0], y) and "imgsz" not in net.args
    assert isinstance(other.train()(image()), list) and not net.training and len(net(image())) == 2
