"""The message of settings that are refused."""

from __future__ import annotations

import pytest

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings


def problems(**overrides: object) -> str:
    """The message with which `overrides` are refused."""
    with pytest.raises(UserError) as caught:
        load_settings(overrides)
    return str(caught.value)
