"""Counts the parameters of every shipped graph in every scale, and writes cfg/parameters.yaml.

    python -m tests.helpers.parameter_table

To be run when a file of cfg/models or a module changes; a test compares the digests, and some of the counts.
"""

from __future__ import annotations

import torch

from bitfalcon_plugin.config.files import cfg_dir, sha256_of, write_text
from bitfalcon_plugin.config.yaml_files import find_model, shipped_models
from bitfalcon_plugin.models.build import read_graph
from bitfalcon_plugin.models.detector import Detector

HEAD = """\
# Trainable and fixed parameters of every graph in cfg/models: the SHA-256 of the file, its name, and the count of each
# scale. `bitfalcon models` reads them here instead of building each graph; a file with another digest is built.
# Written by: python -m tests.helpers.parameter_table
"""


def count(name: str, scale: str) -> int:
    """Build a graph without memory and count its parameters."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Detector(read_graph(name, scale)).parameters())


def main() -> None:
    """Write the table."""
    text = HEAD
    for name in shipped_models():
        file = find_model(name)
        counts = {scale: count(name, scale) for scale in file.document.get("scales") or {"": None}}
        scales = ", ".join(f"{scale or repr(scale)}: {value}" for scale, value in counts.items())
        text += f"{sha256_of(file.path)}: {{file: {name}, counts: {{{scales}}}}}\n"
        print(name, counts, flush=True)
    write_text(cfg_dir() / "parameters.yaml", text)


if __name__ == "__main__":
    main()
