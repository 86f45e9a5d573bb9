"""The detector as a whole: what goes in and comes out, folding, copies, types, layouts, gradients, activation."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn

from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.modules.head import Raw
from bitfalcon_plugin.ops.letterbox import nearest_side
from tests.helpers.tiny_models import lived, small_model

GRAPHS = [
    "yolov12.yaml",
    "yolov12-turbo.yaml",
    "yolo11.yaml",
    "yolov8.yaml",
    "bitfalcon.yaml",
    "bitfalcon-p.yaml",
    "yolov12-lite.yaml",
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def model() -> Detector:
    torch.manual_seed(0)
    return lived(build("yolov12.yaml", "n", nc=3))


# In and out


def test_raw_outputs_are_the_same_kind_in_training_and_outside(model):
    for mode in (True, False):
        raw = copy.deepcopy(model).train(mode)(torch.rand(2, 3, 64, 96))
        assert type(raw) is Raw and list(raw) == ["boxes", "scores"] and raw.sizes == ((8, 12), (4, 6), (2, 3))
        assert raw["boxes"].shape == (2, 64, 126) and raw["scores"].shape == (2, 3, 126)


@torch.inference_mode()
def test_decoding_agrees_with_a_loop_over_anchors(model):
    raw = model(torch.rand(1, 3, 64, 96))
    found, column = model.decode(raw), 0
    assert found.shape == (1, 7, 126)
    for (height, width), stride in zip(((8, 12), (4, 6), (2, 3)), (8, 16, 32), strict=True):
        for y in range(height):
            for x in range(width):
                bins = raw["boxes"][0, :, column].double().view(4, 16).softmax(1)
                left, top, right, bottom = ((bins * torch.arange(16)).sum(1) * stride).tolist()
                centre_x, centre_y = (x + 0.5) * stride, (y + 0.5) * stride
                box = [centre_x + (right - left) / 2, centre_y + (bottom - top) / 2, left + right, top + bottom]
                torch.testing.assert_close(found[0, :4, column].tolist(), box, atol=1e-3, rtol=1e-5)
                column += 1
    torch.testing.assert_close(found[:, 4:], 1 / (1 + torch.exp(-raw["scores"])))


@torch.inference_mode()
def test_plain_tensors_are_decoded_with_the_size_of_the_image(model):
    raw = model(torch.rand(1, 3, 64, 96))
    assert torch.equal(model.decode(dict(raw), size=(64, 96)), model.decode(raw))
    with pytest.raises(ValueError, match="size="):
        model.decode(dict(raw))


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 160), (96, 64), (256, 32)])
def test_batches_are_images_one_by_one(model, height, width):
    images = torch.rand(3, 3, height, width)
    together = model.decode(model(images))
    for image, row in zip(images, together, strict=True):
        torch.testing.assert_close(model.decode(model(image[None]))[0], row, atol=1e-2, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("name", GRAPHS)
def test_the_memory_format_changes_no_number(name):
    model = lived(build(name, "n"))
    images = torch.rand(2, 3, 64, 96)
    expected = model(images)
    for converted in (model, copy.deepcopy(model).to(memory_format=torch.channels_last)):
        raw = converted(images.to(memory_format=torch.channels_last))
        for key in raw:
            torch.testing.assert_close(raw[key], expected[key], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "nearest"),
    [
        (100, 64, "96x64"),
        (64, 47, "64x32"),
        (48, 48, "64x64"),
        (1, 1, "32x32"),
        (639, 641, "640x640"),
        (0, 32, "32x32"),
    ],
)
def test_sides_that_do_not_fit_are_refused_with_the_nearest_that_do(model, height, width, nearest):
    with pytest.raises(ValueError, match=f"{height}x{width}.*multiples of 32.*nearest are {nearest}"):
        model(torch.rand(1, 3, height, width))


def test_nearest_side():
    for multiple in (1, 32, 64):
        for side in range(0, 200):
            candidates = [multiple * i for i in range(1, 400)]
            best = min(abs(c - side) for c in candidates)
            assert nearest_side(side, multiple) == max(c for c in candidates if abs(c - side) == best)


@pytest.mark.parametrize(
    "images", [torch.zeros(3, 64, 64), torch.zeros(1, 1, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)]
)
def test_what_is_no_batch_of_images_is_refused(model, images):
    with pytest.raises(ValueError, match="floating point"):
        model(images)


def test_image_channels_and_bins_come_from_the_document():
    model = small_model((-1, 1, "Conv", [8, 3, 2]), ch=1, reg_max=8)
    raw = model(torch.rand(1, 1, 4, 4))
    assert raw["boxes"].shape == (1, 32, 4) and model.reg_max == 8


# Levels and starting values


def test_levels_and_multiple():
    model = build("bitfalcon.yaml", "n")
    assert model.strides == (8.0, 16.0, 32.0)
    assert model.stride.tolist() == [8, 16, 32] and model.stride.device.type == "cpu"
    down = (-1, 1, "Conv", [8, 3, 2])
    # the head is on stride 2, the detour through stride 4 must fit as well
    model = small_model(down, down, (-1, 1, "nn.Upsample", [None, 2, "nearest"]), ([-1, 0], 1, "Concat", [1]))
    assert model.strides == (2.0,) and model.multiple == 4
    with pytest.raises(ValueError, match="multiples of 4"):
        model(torch.rand(1, 3, 6, 8))
    twice = small_model(down, head=[([0, 0], 1, "Detect", ["nc"])])
    assert twice.strides == (2.0, 2.0) and twice(torch.rand(1, 3, 4, 4)).sizes == ((2, 2), (2, 2))
    pooled = small_model(down, (-1, 1, "nn.AdaptiveAvgPool2d", [1]), head=[([0], 1, "Detect", ["nc"])])
    assert pooled.multiple == 2


@pytest.mark.parametrize(("name", "nc"), [("yolov12.yaml", 80), ("yolov8.yaml", 3), ("bitfalcon.yaml", 2)])
def test_starting_biases(name, nc):
    head = build(name, "n", nc=nc).head
    for box, classes, stride in zip(head.cv2, head.cv3, (8, 16, 32), strict=True):
        assert torch.equal(box[-1].bias, torch.full((64,), 2.0))
        expected = math.log(5 / nc / (640 / stride) ** 2)
        torch.testing.assert_close(classes[-1].bias, torch.full((nc,), expected))
    if nc == 80:
        assert [round(float(c[-1].bias[0].detach()), 4) for c in head.cv3] == [-11.5366, -10.1503, -8.7641]


def test_every_batch_norm_has_the_constants_of_detection_models():
    model = small_model(
        (-1, 1, "Conv", [8, 3, 2]),
        (-1, 1, "nn.BatchNorm2d", []),
        (-1, 1, "torchvision.ops.Conv2dNormActivation", [8, 8, 3]),
    )
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) > 5 and {(part.eps, part.momentum) for part in norms} == {(1e-3, 0.03)}


def test_strides_are_measured_without_a_trace():
    model = build("yolov12.yaml", "n")
    assert model.training and all(part.training for part in model.modules())
    assert all(part.num_batches_tracked == 0 for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    assert all(p.grad is None for p in model.parameters())


# Copies, types, folding


def same(a: Raw, b: Raw) -> bool:
    return all(torch.equal(a[key], b[key]) for key in ("boxes", "scores"))


@torch.inference_mode()
def test_copies_give_the_same_outputs(model):
    images = torch.rand(1, 3, 64, 64)
    expected = model(images)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    fresh = build("yolov12.yaml", "n", nc=3).eval()
    fresh.load_state_dict(model.state_dict())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False), fresh):
        assert same(other(images), expected)
        assert (other.names, other.strides, other.multiple, other.graph) == (
            model.names,
            model.strides,
            model.multiple,
            model.graph,
        )


def test_a_copy_is_independent(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).zero_()
    assert next(model.parameters()).abs().sum() > 0


@torch.inference_mode()
@pytest.mark.parametrize("name", GRAPHS)
def test_bfloat16(name):
    model = lived(build(name, "n"))
    images = torch.rand(2, 3, 64, 96)
    expected = model.decode(model(images))
    half = model.to(torch.bfloat16)
    raw = half(images.bfloat16())
    assert raw["boxes"].dtype == raw["scores"].dtype == torch.bfloat16
    for found in (half.decode(raw), half.decode(half.fuse()(images.bfloat16()))):
        assert found.dtype == torch.float32 and found.isfinite().all()
        # a smoke test: 8 bits through 60 layers
        torch.testing.assert_close(found[:, 4:], expected[:, 4:], atol=0.1, rtol=0)
        assert (found[:, :4] - expected[:, :4]).abs().mean() < 4


@torch.inference_mode()
@pytest.mark.parametrize("name", GRAPHS)
def test_folding_is_exact_complete_and_happens_once(name):
    model = lived(build(name, "n")).double()
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    expected = model(images)
    assert model.fuse() is model
    raw = model(images)
    for key in raw:
        torch.testing.assert_close(raw[key], expected[key], atol=1e-9, rtol=1e-9)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert all(torch.equal(value, before[key]) for key, value in model.fuse().state_dict().items())


def test_a_folded_model_can_still_be_trained():
    model = lived(build("yolov12.yaml", "n")).fuse().train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3)
    raw = model(torch.rand(1, 3, 64, 64))
    (raw["boxes"].square().mean() + raw["scores"].square().mean()).backward()
    optimizer.step()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    copy.deepcopy(model).eval()(torch.rand(1, 3, 32, 32))


# Gradients


def reached(model: Detector) -> set[str]:
    """Names of parameters of rows that the head can be reached from, by walking the graph backwards."""
    rows, waiting = set(), [len(model.graph.rows) - 1]
    while waiting:
        row = waiting.pop()
        if row >= 0 and row not in rows:
            rows.add(row)
            waiting += model.graph.rows[row].sources
    return {name for name, p in model.named_parameters() if int(name.split(".")[1]) in rows and p.requires_grad}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_parameter_that_reaches_an_output_has_a_gradient(name):
    model = build(name, "n", nc=2).train()
    raw = model(torch.rand(2, 3, 64, 64))
    (raw["boxes"].square().mean() + raw["scores"].square().mean()).backward()
    found = {key for key, p in model.named_parameters() if p.grad is not None}
    assert found == reached(model)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    idle = {int(key.split(".")[1]) for key, p in model.named_parameters() if p.requires_grad} - {
        int(key.split(".")[1]) for key in found
    }
    assert idle == ({16, 17} if name == "bitfalcon.yaml" else set())  # 8 and 9 reach the head through 11


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("name", GRAPHS)
def test_gradients_of_one_image_are_half_of_those_of_the_image_twice(name, memory_format):
    # A batch of one has strides that kernels have misread; with fixed norms, twice the image is twice the gradient.
    model = lived(build(name, "n", nc=2)).double()
    image = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    gradients = []
    for images in (image, image.repeat(2, 1, 1, 1)):
        model.zero_grad()
        raw = model(images.to(memory_format=memory_format))
        weights = torch.linspace(-1, 1, raw["boxes"][0].numel(), dtype=torch.float64).view_as(raw["boxes"][0])
        ((raw["boxes"] * weights).sum() + raw["scores"].square().sum()).backward()
        gradients.append({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
    for key, once in gradients[0].items():
        torch.testing.assert_close(2 * once, gradients[1][key], atol=1e-9 * float(once.abs().max() + 1), rtol=1e-7)


@pytest.mark.parametrize("name", ["bitfalcon.yaml", "bitfalcon-p.yaml", "yolov12.yaml"])
def test_every_step_lowers_a_loss(name):
    model = build(name, "n", nc=2).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    images, losses = torch.rand(2, 3, 64, 64), []
    for _ in range(8):
        raw = model(images)
        loss = (raw["scores"] - 1).square().mean() + (raw["boxes"] + 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.8 * losses[0]
