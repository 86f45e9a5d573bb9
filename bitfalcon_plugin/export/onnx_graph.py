"""Record an ExportedNetwork as an ONNX graph, for the formats that are or come from ONNX."""

from __future__ import annotations

from pathlib import Path

import torch

from .job import ExportJob, quiet
from .options import OPSET

INPUT, OUTPUT = "images", "output"  # an output has a number behind its name
# The axes of each output that a dynamic file leaves open, besides that of the images: number -> name.
OPEN_AXES = {"candidates": {2: "anchors"}, "probabilities": {}, "prototypes": {2: "mask_height", 3: "mask_width"}}


def open_axes(job: ExportJob) -> dict[str, dict[int, str]]:
    """The axes that the file leaves open, by the name of the input or output: number -> name."""
    if not job.dynamic:
        return {}
    axes = {INPUT: {0: "batch", 2: "height", 3: "width"}}
    for number, name in enumerate(job.network.outputs):
        is_cut = number == 0 and job.network.suppression  # to max_det rows
        axes[f"{OUTPUT}{number}"] = {0: "batch", **({} if is_cut else OPEN_AXES[name])}
    return axes


def record_onnx(job: ExportJob, path: Path) -> None:
    """Write the network as ONNX."""
    with quiet(), torch.no_grad():
        torch.onnx.export(
            job.network,
            (job.images,),
            str(path),
            input_names=[INPUT],
            output_names=[f"{OUTPUT}{number}" for number in range(len(job.network.outputs))],
            dynamo=False,
            opset_version=job.opset or OPSET,
            dynamic_axes=open_axes(job),
            do_constant_folding=True,
        )
