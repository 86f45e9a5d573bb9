"""Every head computes where its weights are: shapes of tensors that claim to be on a GPU, in training and inference."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bitfalcon_plugin.models.build import build

SHAPES = {"": (7, 84), "-seg": (39, 84), "-cls": (3,), "-pose": (58, 84), "-obb": (8, 84)}


def move_to_gpu(model: nn.Module) -> None:
    """Give a model tensors of the same shapes on a GPU, without values; inside of a FakeTensorMode."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    moved = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                    tensors[name] = nn.Parameter(moved) if isinstance(tensor, nn.Parameter) else moved


@pytest.mark.parametrize("suffix", SHAPES)
def test_a_model_on_a_gpu_uses_no_tensor_of_the_cpu(suffix):
    with torch.device("meta"):
        model = build(f"yolov12{suffix}.yaml", "n", nc=3)
    with FakeTensorMode():  # an operation on tensors of two devices raises an error
        move_to_gpu(model)
        images = torch.empty(2, 3, 64, 64, device="cuda")
        for training in (True, False):
            raw = model.train(training)(images)
            decoded = model.decode(raw)
            assert {tensor.device.type for tensor in (*raw.values(), decoded)} == {"cuda"}
            assert decoded.shape == (2, *SHAPES[suffix]) and decoded.dtype == torch.float32
