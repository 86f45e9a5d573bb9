"""The modules of the graph language by their YAML names; those that the house does not have join its language here."""

from __future__ import annotations

from ....models.modules import register
from . import block, conv, head, transformer
from .block import *  # noqa: F403
from .conv import *  # noqa: F403
from .head import *  # noqa: F403
from .transformer import *  # noqa: F403

__all__ = [*block.__all__, *conv.__all__, *head.__all__, *transformer.__all__]  # noqa: PLE0604

# How a row of a graph is read (models.graph.rules.KINDS), as in spec/interface.md 3.3; others keep the channels.
RULES = {
    "block": (
        "ConvTranspose GhostConv GhostBottleneck SPP Focus DWConvTranspose2d PSA SCDown RepConv LightConv Conv2 CIB"
    ),
    "stage": "BottleneckCSP C1 C3TR C3Ghost C3x RepC3 C2fPSA C2fCIB",
    "same": "AIFI CBAM ChannelAttention SpatialAttention LayerNorm2d",
}
for _kind, _names in RULES.items():
    for _name in _names.split():
        register(_name, globals()[_name], _kind)
