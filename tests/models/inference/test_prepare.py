"""Preparing a model: fused convolutions against the plain layers, the choices and their notes, half precision, and
compilation that fails.
"""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.inference import compiling, fused_conv, precision, prepare
from bitfalcon_plugin.models.modules.conv import Conv
from tests.helpers.bright import bright, canvas
from tests.helpers.finder import BrightBoxes
from tests.helpers.predicting import predict
from tests.helpers.tiny_models import lived, small_model

needs_operator = pytest.mark.skipif(
    not fused_conv.operator_works(), reason="this torch has no fused convolution of oneDNN"
)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def folded(conv: Conv) -> Conv:
    conv = lived(conv).eval().requires_grad_(False)
    conv.fuse()
    return conv


@needs_operator
@pytest.mark.parametrize("act", [True, False, nn.ReLU(), nn.Hardswish(), nn.LeakyReLU(0.2), nn.SiLU(inplace=True)])
@pytest.mark.parametrize(("k", "s", "g", "d"), [(3, 1, 1, 1), (1, 1, 1, 1), (3, 2, 8, 1), (5, 2, 2, 2)])
@pytest.mark.parametrize(
    "limits", [(0, 0), (0, 2000), (fused_conv.LOOP_LIMIT, fused_conv.PRODUCT_LIMIT)]
)  # oneDNN alone; products; torch's own loops, too
def test_a_fused_block_is_the_plain_one_at_every_call(act, k, s, g, d, limits, monkeypatch):
    monkeypatch.setattr(fused_conv, "LOOP_LIMIT", limits[0])
    monkeypatch.setattr(fused_conv, "PRODUCT_LIMIT", limits[1])
    plain = folded(Conv(8, 16, k, s, g=g, d=d, act=act))
    fused = nn.Sequential(copy.deepcopy(plain))
    assert fused_conv.fuse_activations(fused) == 1 and isinstance(fused[0].conv, fused_conv.FusedConv2d)
    for size in ((1, 9, 9), (2, 16, 8), (1, 9, 9), (1, 9, 9)):  # seen, another, laid out, and used again
        x = torch.randn(size[0], 8, *size[1:])
        with torch.inference_mode():
            expected = plain(x)
            for images in (x, x.contiguous(memory_format=torch.channels_last), torch.cat((x, x), 1)[:, :8]):
                before = images.clone()
                torch.testing.assert_close(fused(images), expected, atol=1e-5, rtol=1e-4)
                assert torch.equal(images, before)


@needs_operator
def test_a_fused_convolution_is_still_a_convolution():
    model = nn.Sequential(
        folded(Conv(4, 4, 3)), nn.Conv2d(4, 3, 1).requires_grad_(False), nn.Conv2d(3, 2, 3, padding="same")
    )
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        expected = model(x)
        assert fused_conv.fuse_activations(model) == 2  # not the one with a gradient
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
        torch.testing.assert_close(model(x), expected)
        twin = copy.deepcopy(model)
        torch.testing.assert_close(twin(x), expected)
        torch.testing.assert_close(
            model.double()(x.double()), expected.double(), atol=1e-5, rtol=1e-4
        )  # a type the operator has not
    model.float()
    x.requires_grad_(True)
    model(x).sum().backward()  # where a gradient is asked for the plain layers compute
    assert x.grad is not None and x.grad.abs().sum() > 0


@needs_operator
def test_a_block_gives_way_to_its_convolution_where_nothing_else_is_left():
    model = nn.Sequential(
        *(folded(Conv(4, 4, 3, act=act)) for act in (nn.SiLU(), nn.LeakyReLU(0.2), nn.SiLU(), nn.SiLU())),
        lived(Conv(4, 4)).eval(),
    )
    calls = []
    model[2].register_forward_hook(lambda *_: calls.append("block"))
    model[3].bn.register_forward_pre_hook(lambda *_: calls.append("norm"))
    x = torch.randn(1, 4, 8, 8)
    with torch.inference_mode():
        expected = model(x)
        fused_conv.fuse_activations(model)
        fused_conv.unwrap_convolutions(model)
        assert [type(block) for block in model] == [fused_conv.FusedConv2d, Conv, Conv, Conv, Conv]
        torch.testing.assert_close(model(x), expected)
    assert calls == ["block", "norm"] * 2


@needs_operator
def test_shapes_are_kept_for_a_few_sizes_only():
    fused = nn.Sequential(folded(Conv(4, 4, 5)))
    fused_conv.fuse_activations(fused)
    with torch.inference_mode():
        for side in range(8, 20):
            fused(torch.zeros(1, 4, side, side))
        assert not fused[0].conv._layouts  # one sight of each
        for side in range(8, 20):
            for _ in range(2):
                fused(torch.zeros(1, 4, side, side))
    assert len(fused[0].conv._layouts) == fused_conv.MAX_SHAPES


@needs_operator
def test_a_prepared_network_gives_the_boxes_of_the_plain_one():
    model = lived(build("yolov12.yaml", "n")).eval()
    ready = prepare.prepare_for_inference(model, CPU)
    plain = copy.deepcopy(model).fuse()
    x = torch.rand(2, 3, 96, 64)
    with torch.inference_mode():
        expected = plain.decode(plain(x))
        first, second = (ready.decode(ready(x.contiguous(memory_format=torch.channels_last))) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, expected, atol=1e-2, rtol=1e-4)
    assert "folded" in ready.how and "channels last" in ready.how and "float32" in ready.how and "threads" in ready.how
    assert model.training is False and any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@needs_operator
@pytest.mark.parametrize("graph", ["yolov12.yaml", "yolo11.yaml", "bitfalcon.yaml"])
def test_what_is_prepared_can_be_folded_and_prepared_again(graph):
    model = lived(build(graph, "n")).eval()
    x = torch.rand(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    ready = prepare.prepare_for_inference(model, CPU)
    with torch.inference_mode():
        expected = ready(x)
        for again in (prepare.prepare_for_inference(ready, CPU), ready.fuse()):
            raw = again(x)
            assert all(torch.allclose(raw[key], expected[key], atol=1e-4, rtol=1e-4) for key in raw)


def test_a_prepared_copy_shares_nothing_that_can_change():
    class Odd(nn.Module):
        """Passes its input on, and holds all that a module of others may hold."""

        def __init__(self, other: nn.Module):
            super().__init__()
            self.register_buffer("table", torch.arange(3.0), persistent=False)
            self.numbers, self.others = [1, {"a": torch.ones(2)}], [other]

        def forward(self, x):
            return x

    model = lived(small_model((-1, 1, "Conv", [8, 3, 2]), (-1, 1, "Conv", [8, 3, 1])))
    model.model[1].act = Odd(model.model[0])
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        expected = model(x)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ready = prepare.prepare_for_inference(model, CPU)
    odd, ready_odd = model.model[1].act, next(part for part in ready.modules() if isinstance(part, Odd))
    assert ready_odd is not odd and ready_odd.others[0] is not odd.others[0]
    ready.names[0], ready.graph.names[0] = "other", "other"
    ready_odd.numbers[0] = 2
    with torch.no_grad():
        for tensor in (*ready.parameters(), *ready.buffers(), ready_odd.numbers[1]["a"]):
            tensor.add_(1)
    assert model.names[0] == model.graph.names[0] == "0" and odd.numbers[0] == 1
    assert odd.numbers[1]["a"].tolist() == [1, 1] and odd.table.tolist() == [0, 1, 2]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if "dfl" not in name)
    with torch.inference_mode():
        assert all(torch.equal(value, expected[key]) for key, value in model(x).items())


def test_nothing_is_drawn_from_the_random_numbers_of_the_caller():
    fused_conv.operator_works.cache_clear()
    precision.half_type.cache_clear()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    fused_conv.operator_works()
    precision.half_type(CPU)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(("gain", "dtype"), [(2.0, torch.bfloat16), (1.1, None), (0.1, None)])
def test_half_is_taken_where_it_gains(monkeypatch, gain, dtype):
    monkeypatch.setattr(precision, "operator_works", lambda dtype: True)  # as on a CPU with AVX-512
    monkeypatch.setattr(precision, "_bfloat16_gain", lambda: gain)
    precision.half_type.cache_clear()
    chosen, reason = precision.half_type(CPU)
    precision.half_type.cache_clear()
    assert chosen is dtype and ("32 bits" in reason) == (dtype is None) and f"{gain:.2g}"[0] in reason
    assert precision.half_type(torch.device("cuda"))[0] is torch.float16


def test_half_weights_on_a_cpu_that_gains(monkeypatch):
    monkeypatch.setattr(prepare, "half_type", lambda device: (torch.bfloat16, "a reason"))
    monkeypatch.setattr(prepare, "operator_works", lambda dtype=torch.float32: False)
    model = lived(build("yolov12.yaml", "n")).eval()
    ready = prepare.prepare_for_inference(model, CPU, half=True)
    assert (
        {p.dtype for p in ready.parameters()} == {torch.bfloat16}
        and "bfloat16" in ready.how
        and precision.why_not_half(ready) == ""
    )
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert prepare.prepare_for_inference(model, CPU).head.cv2[0][0].conv.weight.dtype is torch.float32


class Uncompilable(BrightBoxes):
    def forward(self, images):
        if torch.compiler.is_compiling():
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found in ('g++',)")
        return super().forward(images)

    def fuse(self):
        return self


def test_a_machine_that_cannot_compile_says_so_and_goes_on(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, notes = Uncompilable(), []
    model.how = "float32, compiled"
    model._compiled_call_impl = lambda *args: (_ for _ in ()).throw(
        RuntimeError("first\nNo working C++ compiler found")
    )
    model.warmed = {}
    images = torch.zeros(1, 3, 32, 32)
    assert compiling.warm(model, images, notes.append) > 0
    assert len(notes) == 1 and "No working C++ compiler" in notes[0] and "without compiling" in notes[0]
    assert model(images) is images and compiling.warm(model, images, notes.append) == 0 and "not compiled" in model.how


def test_the_warm_up_of_a_shape_is_noted_once():
    model, notes = BrightBoxes(), []
    model._compiled_call_impl = model.forward  # what torch.compile would put there
    model.warmed = {}
    for size in ((1, 3, 32, 32), (1, 3, 32, 32), (1, 3, 64, 32)):
        compiling.warm(model, torch.zeros(size), notes.append)
    assert [line.rpartition(" ")[2] for line in notes] == ["1x3x32x32", "1x3x64x32"] and all(
        "warm-up" in line for line in notes
    )


def test_batches_are_shared_out_among_devices_and_come_back_in_order():
    class Slow(BrightBoxes):
        def forward(self, images):
            self.inside += 1
            assert self.inside == 1  # at each device one batch at a time
            torch.zeros(1).add_(sum(self.seen[-1]) if self.seen else 0)
            raw = super().forward(images)
            self.inside -= 1
            return raw

    first, second = Slow(), Slow()
    first.inside = second.inside = 0
    first.twins = (second,)
    pictures = [canvas(32, 32, (index % 3, index % 7, 2, index % 7 + 6, 12)) for index in range(30)]
    results = list(predict(first, pictures, imgsz=32, batch=2))
    assert [int(result.boxes.cls[0]) for result in results] == [index % 3 for index in range(30)]
    assert [float(result.boxes.xyxy[0][0]) for result in results] == [index % 7 for index in range(30)]
    assert len(first.seen) + len(second.seen) == 15 and first.seen and second.seen


def test_what_a_device_raises_ends_the_others_too():
    class Broken(BrightBoxes):
        def forward(self, images):
            raise RuntimeError("no memory")

    model = BrightBoxes()
    model.twins = (Broken(),)
    with pytest.raises(RuntimeError, match="no memory"):
        list(predict(model, [canvas(32, 32)] * 40, imgsz=32, batch=1))


def test_the_next_batch_is_computed_while_the_caller_has_this_one():
    model = BrightBoxes()
    results = predict(model, [np.zeros((32, 32, 3), np.uint8)] * 12, imgsz=32, batch=2)
    next(results)
    for _ in range(200):
        if len(model.seen) >= 2:
            break
        torch.zeros(200_000).sort()
    assert len(model.seen) >= 2
    results.close()
    assert len(model.seen) <= 3


def test_what_was_chosen_is_said_with_verbose(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    yolo = bright(tmp_path)
    yolo.predict(canvas(64, 64, (0, 5, 5, 20, 20)), verbose=True)
    assert "Network: float32, folded" in capsys.readouterr().out
    yolo.predict(canvas(64, 64, (0, 5, 5, 20, 20)))
    assert "Network:" not in capsys.readouterr().out


HEAVY = """
    pycocotools torchvision sympy matplotlib scipy pandas cv2 torch._dynamo torch._inductor torch.utils.tensorboard onnx
    onnxruntime openvino bitfalcon_plugin.train bitfalcon_plugin.train.run bitfalcon_plugin.val.loop
    bitfalcon_plugin.val.run bitfalcon_plugin.data.dataset bitfalcon_plugin.data.loading.loader
    bitfalcon_plugin.data.doctor.report bitfalcon_plugin.export.run bitfalcon_plugin.benchmark.run
    """.split()
PREDICT = f"""
import sys
import numpy as np
import torch
from bitfalcon_plugin import YOLO
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint

model = build("yolov12.yaml", "n")
save_checkpoint("n.pt", Checkpoint(model.graph, model.state_dict()))
YOLO("n.pt").predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, device="cpu", save=True)
imported = [name for name in {HEAVY} if name in sys.modules]
print("imported", imported)
sys.exit(bool(imported))
"""


def test_predicting_imports_no_more_than_it_needs(tmp_path):
    """Each of these takes a tenth of a second and more, or imports what does."""
    done = subprocess.run([sys.executable, "-c", PREDICT], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_alone_imports_no_torch():
    names = ("torch", "numpy", "yaml", "PIL")
    code = f"import sys, bitfalcon_plugin; sys.exit(any(name in sys.modules for name in {names}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
