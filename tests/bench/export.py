"""Export every graph of the repository to every format, fixed and dynamic, with the comparison that `export` makes.

    python tests/bench/export.py                     all graphs at n, and one larger scale; minutes
    python tests/bench/export.py yolo11.yaml:s onnx  one graph at one scale, one format

Weights are random, with batch norms that change what they are given. Prints a line for each export: the largest
differences and the seconds that it took. Ends with 1 where one failed.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bitfalcon_plugin.config.settings import load_settings  # noqa: E402
from bitfalcon_plugin.export.formats import EXPORT_FORMATS, WRITABLE_FORMATS  # noqa: E402
from bitfalcon_plugin.export.run import run_export  # noqa: E402
from bitfalcon_plugin.models.build import build  # noqa: E402
from bitfalcon_plugin.models.modules.bit_activations import QuantisedLayer  # noqa: E402
from tests.helpers.tiny_models import lived  # noqa: E402

GRAPHS = (
    "yolov12.yaml:n",
    "yolov12.yaml:s",
    "yolov12-turbo.yaml:n",
    "yolov12-turbo.yaml:s",
    "yolo11.yaml:n",
    "yolo11.yaml:s",
    "yolov8.yaml:n",
    "yolov8.yaml:s",
    "bitfalcon.yaml:n",
    "bitfalcon.yaml:s",
    "bitfalcon-p.yaml:n",
    "yolov12-lite.yaml:n",
)


KINDS = {"fixed": {}, "dynamic": {"dynamic": True}, "half": {"half": True}}


def model_of(name: str) -> torch.nn.Module:
    """A Detector of GRAPH.yaml:scale with used batch norms; ranges of activations are measured on noise."""
    graph, _, scale = name.partition(":")
    torch.manual_seed(0)
    model = build(graph, scale)
    layers = [layer for layer in model.modules() if isinstance(layer, QuantisedLayer)]
    if layers:
        with torch.no_grad():
            model.train()(torch.rand(2, 3, 128, 128))
    model = lived(model)
    with torch.no_grad():
        for branch in model.head.cv3:  # scores that differ
            branch[-1].weight.normal_(std=0.5)
            branch[-1].bias.fill_(-2)
    return model


def main() -> int:
    graphs = [word for word in sys.argv[1:] if ".yaml" in word] or GRAPHS
    formats = [word for word in sys.argv[1:] if word in WRITABLE_FORMATS] or WRITABLE_FORMATS
    failed = 0
    for name in graphs:
        model = model_of(name)
        for format_ in formats:
            for kind, options in KINDS.items():
                if not set(options) <= set(EXPORT_FORMATS[format_].options):
                    continue
                settings = load_settings({"mode": "export", "format": format_, "imgsz": [192, 256], **options})
                start = time.perf_counter()
                with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as output:
                    try:
                        run_export(model, settings.replace(out=f"{folder}/x{EXPORT_FORMATS[format_].suffix}"), name)
                        line = output.getvalue().splitlines()[1].partition(": ")[2]
                    except Exception as error:  # noqa: BLE001  the next may do
                        failed, line = failed + 1, f"FAILED {type(error).__name__}: {str(error)[:300]}"
                print(f"{name:<24} {format_:<12} {kind:<8} {time.perf_counter() - start:5.1f} s  {line}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
