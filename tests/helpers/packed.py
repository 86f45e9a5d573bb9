"""A small packed model, and packed files that somebody wrote by hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import yaml

from bitfalcon_plugin.bit.packing import pack
from bitfalcon_plugin.models.build import resolve_graph
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.weights.packed_layout import checksum
from tests.helpers.coloured import GRAPH
from tests.helpers.tiny_models import lived

NAMES = {0: "red", 1: "green", 2: "blue"}


@cache
def small_ternary_model() -> Detector:
    """Return small.yaml with bit=all, activation scales that are set, and batch norms that change what they are given.

    Always the same object: change a copy.
    """
    torch.manual_seed(0)
    document = {**yaml.safe_load(GRAPH), "bit": "all"}
    model = Detector(resolve_graph(document, name="small.yaml", named_scale="n", nc=3, names=NAMES))
    with torch.no_grad():
        model.train()(torch.rand(2, 3, 64, 64))
    return lived(model)


def write_packed(folder: Path) -> Path:
    """Write the packed file of the small model into `folder`; return its path."""
    pack(small_ternary_model(), folder / "small-bit.pt")
    return folder / "small-bit.pt"


def sealed(content: dict) -> dict:
    """Return the content of a packed file with the checksum that fits, as an attacker would write it."""
    return {**content, "checksum": checksum(content)}
