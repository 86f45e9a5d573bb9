"""Prototypes computed at half the size are those of the plain layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitfalcon_plugin.models.inference.merged_proto import MergedProto, merge_prototypes
from bitfalcon_plugin.models.inference.prepare import prepare_for_inference
from bitfalcon_plugin.models.modules.bit_layers import BitConv2d
from bitfalcon_plugin.models.modules.segment import Proto
from tests.helpers.exports import tiny_segment
from tests.helpers.tiny_models import lived


def folded(act: nn.Module | None = None) -> nn.Sequential:
    """A Proto in a Sequential, with batch norms that do something, folded."""
    torch.manual_seed(0)
    proto = lived(Proto(6, 5, 3))
    for block in (proto.cv1, proto.cv2, proto.cv3):
        block.act = act or block.act
        block.fuse()
    return nn.Sequential(proto.requires_grad_(False))


@pytest.mark.parametrize("act", [None, nn.ReLU(), nn.Identity()])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_merged_layers_give_the_same_numbers(act, size, layout):
    model, x = folded(act), torch.randn(2, 6, *size).contiguous(memory_format=layout)
    expected = model(x)
    merge_prototypes(model)
    assert isinstance(model[0], MergedProto)
    torch.testing.assert_close(model.to(memory_format=layout)(x), expected, rtol=1e-4, atol=1e-5)


def test_layers_that_are_not_plain_stay():
    for change in (
        lambda proto: setattr(proto.cv2, "act", nn.PReLU(5)),
        lambda proto: setattr(proto.cv2, "bn", nn.BatchNorm2d(5)),
        lambda proto: setattr(proto.cv3, "conv", BitConv2d.of(proto.cv3.conv, rule="int8")),
        lambda proto: proto.upsample.register_forward_hook(lambda *_: None),
    ):
        model = folded()
        change(model[0])
        merge_prototypes(model)
        assert type(model[0]) is Proto


def test_a_network_prepared_for_a_processor_has_them():
    model, images = tiny_segment(), torch.rand(2, 3, 64, 48)
    ready = prepare_for_inference(model, torch.device("cpu"))
    assert isinstance(ready.head.proto, MergedProto) and type(model.head.proto) is Proto
    with torch.inference_mode():
        raw, expected = ready(images), model(images)
    for name, value in expected.items():
        torch.testing.assert_close(raw[name], value, rtol=1e-3, atol=1e-4)
