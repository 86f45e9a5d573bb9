"""The fixture of the tests of ternary layers."""

from __future__ import annotations

import pytest
import torch

from bitfalcon_plugin.models.modules.bit_kernels import set_default_backend


@pytest.fixture()
def seeded():
    """The same random numbers in each test; the default backend is auto, before and after."""
    torch.manual_seed(0)
    set_default_backend("auto")
    yield
    set_default_backend("auto")
