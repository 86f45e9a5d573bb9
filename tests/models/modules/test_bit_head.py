"""The ternary head: its tensors, its sharing of what is quantised, its folding, and its way through a file."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.modules import bit_kernels
from bitfalcon_plugin.models.modules.bit_activations import Quantised
from bitfalcon_plugin.models.modules.bit_folded import FrozenConv2d
from bitfalcon_plugin.models.modules.bit_layers import BitConv2d
from bitfalcon_plugin.models.modules.head import BitDetect, Detect
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bitfalcon_plugin.models.weights.transfer import transfer
from tests.helpers.ternary import assert_equal
from tests.helpers.tiny_models import lived

pytestmark = pytest.mark.usefixtures("seeded")


def levels() -> list[torch.Tensor]:
    return [torch.randn(2, 16, 6, 8), torch.randn(2, 32, 3, 4), torch.randn(2, 48, 2, 2)]


def head(cls: type = BitDetect) -> Detect:
    return lived(cls(3, channels=[16, 32, 48]))


def without_scales(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a module without scales of activations, as a float module has it."""
    return {name: tensor for name, tensor in module.state_dict().items() if not name.endswith("act_scale")}


def test_a_float_heads_state_loads_and_the_other_way_round():
    ternary, plain = head(), head(Detect)
    shapes = {name: tensor.shape for name, tensor in without_scales(ternary).items()}
    assert shapes == {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert not any(ternary.load_state_dict(plain.state_dict()))
    assert torch.equal(ternary.cv2[1][1].conv.weight, plain.cv2[1][1].conv.weight)
    plain.load_state_dict(without_scales(ternary))


def test_what_is_ternary_and_what_stays_float():
    for name, part in head().named_modules():
        if isinstance(part, BitConv2d):
            assert part.rule == ("int8" if part.groups > 1 else "absmean")
            assert part.act == ("given" if name.startswith("cv3") and name.endswith(".0.0.conv") else "static")
        elif isinstance(part, nn.Conv2d):
            assert name.endswith(".2") or name == "dfl.conv"
    assert sum(isinstance(part, BitConv2d) for part in head().modules()) == 3 * 6


@pytest.mark.parametrize("backend", ["auto", "float"])
@torch.no_grad()
def test_each_level_is_quantised_once_and_inference_is_what_training_saw(backend, monkeypatch):
    bit_kernels.set_default_backend(backend)
    block, maps = head(), levels()
    for part in block.modules():
        if isinstance(part, BitConv2d):
            part.train()  # the scales only: batch norms keep what they are given
    block(maps)
    calls, original = [], BitConv2d._quantise
    monkeypatch.setattr(BitConv2d, "_quantise", lambda self, x: calls.append(self) or original(self, x))
    first = [branch[0].conv for branch in block.cv2]
    for part in block.modules():
        part.observing = False
    expected = block(maps)
    assert len(calls) == 3 * 5 and calls[:3] == first
    for part in block.modules():
        part.training = False
    results = [block(maps), copy.deepcopy(block)(maps)]
    block.fuse()
    results.append(block(maps))
    # Where two ways of adding up differ in the last digit, a code may be rounded to the other side: one step of 254.
    for outputs in results:
        for key, tensor in outputs.items():
            error, size = (tensor - expected[key]).abs(), expected[key].abs().max()
            assert error.max() < 0.02 * size and error.mean() < 1e-4 * size
    assert not any(isinstance(part, nn.BatchNorm2d) for part in block.modules())
    assert isinstance(block.cv2[0][0].conv, FrozenConv2d)


def test_a_layer_takes_quantised_input():
    layer = BitConv2d(4, 4, 3, act="given")
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(layer(Quantised(x)), layer(x))
    codes = bit_kernels.float_codes(x, torch.tensor(0.05))
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(Quantised(codes=codes, scale=torch.tensor(0.05))), layer(codes * 0.05))


@pytest.mark.parametrize("graph", ["bitfalcon.yaml", "bitfalcon-p.yaml"])
def test_the_owners_graphs_are_saved_and_loaded_with_their_scales(graph, tmp_path):
    model = build(graph, "n", nc=2).train()
    raw = model(torch.rand(2, 3, 64, 64))
    (raw["boxes"].square().mean() + raw["scores"].square().mean()).backward()
    model.eval()
    scales = {name: value for name, value in model.state_dict().items() if name.endswith("act_scale")}
    assert len(scales) == 15 and all(value > 0 for value in scales.values())
    save_checkpoint(tmp_path / "a.pt", Checkpoint(model.graph, model.state_dict()))
    loaded, x = load_checkpoint(tmp_path / "a.pt").model(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert_equal(loaded(x), model(x))
    assert_equal(loaded.state_dict(), model.state_dict())


def test_a_checkpoint_of_a_float_head_opens_and_transfers(tmp_path):
    model = lived(build("bitfalcon-p.yaml", "n", nc=2))
    plain = without_scales(model)
    save_checkpoint(tmp_path / "old.pt", Checkpoint(model.graph, plain))
    checkpoint = load_checkpoint(tmp_path / "old.pt")
    state = checkpoint.model().state_dict()
    scales = state.keys() - plain.keys()
    assert_equal({name: state[name] for name in plain}, plain)
    assert scales and not any(state[name].any() for name in scales)
    other = build("bitfalcon-p.yaml", "n", nc=2)
    for part in other.modules():
        if isinstance(part, BitConv2d) and part.act != "given":
            part.act_scale.fill_(3.0)
    transfer(other, checkpoint, "old.pt")
    assert_equal(other.state_dict(), state)
    with pytest.raises(UserError, match="do not fit"):
        Checkpoint(model.graph, {name: tensor for name, tensor in plain.items() if "cv2.0.0.conv" not in name}).model()
