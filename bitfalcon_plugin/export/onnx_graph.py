"""Record an ExportedNetwork as an ONNX graph, for the formats that are or come from ONNX."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim

from ..config.notes import print_note_once
from .job import ExportJob, quiet
from .options import OPSET, PROGRAM_OPSET
from .runtimes.runtime import INPUT, OUTPUT
from .runtimes.silence import silenced

# The axes of each output that a dynamic file leaves open, besides that of the images: number -> name.
OPEN_AXES = {"candidates": {2: "anchors"}, "probabilities": {}, "prototypes": {2: "mask_height", 3: "mask_width"}}

MAX_BATCH = 4096  # of a dynamic graph of torch.export
MAX_CELLS = 4096  # the longest side of a dynamic graph of torch.export, in multiples of the network


def open_sides(job: ExportJob) -> tuple[Tensor, dict[str, dict[int, object]]]:
    """The example (B, 3, H, W) and the open sides of the input by its name, as torch.export takes them."""
    sides = (job.network.model.multiple * Dim(name, min=1, max=MAX_CELLS) for name in ("rows", "columns"))
    shapes = {INPUT: {0: Dim("batch", min=1, max=MAX_BATCH), **dict(zip((2, 3), sides))}}
    # torch.export takes a batch of 1 for a fixed one
    return job.images.repeat(2, 1, 1, 1) if len(job.images) == 1 else job.images, shapes


def open_axes(job: ExportJob) -> dict[str, dict[int, str]]:
    """The axes that the file leaves open, by the name of the input or output: number -> name."""
    if not job.dynamic:
        return {}
    axes = {INPUT: {0: "batch", 2: "height", 3: "width"}}
    for number, name in enumerate(job.network.outputs):
        is_cut = number == 0 and job.network.suppression  # to max_det rows
        axes[f"{OUTPUT}{number}"] = {0: "batch", **({} if is_cut else OPEN_AXES[name])}
    return axes


def record_onnx(job: ExportJob, path: Path, maintained: bool = False) -> None:
    """Write the network as ONNX.

    maintained: by the exporter that torch maintains, where it takes the job; otherwise, and where it fails, by the
    older one, which torch calls deprecated. Without `maintained` the order is the other way round.
    """
    recorders = [_record_trace, *([_record_program] if _takes_program(job) else [])]
    first, *others = reversed(recorders) if maintained else recorders
    try:
        first(job, path)
    except OSError:  # a full disk is full for the other one too
        raise
    except Exception:
        if not others:
            raise
        names = {_record_trace: "older", _record_program: "maintained"}
        print_note_once(f"torch's {names[first]} ONNX exporter fails on this network; the other one is tried.")
        others[0](job, path)


def _takes_program(job: ExportJob) -> bool:
    """Whether the maintained exporter can be asked: it has no loop for suppression, and its opsets begin at 18."""
    is_new_enough = job.opset is None or job.opset >= PROGRAM_OPSET
    return importlib.util.find_spec("onnxscript") is not None and job.network.suppression is None and is_new_enough


def _names(job: ExportJob) -> dict[str, list[str]]:
    outputs = [f"{OUTPUT}{number}" for number in range(len(job.network.outputs))]
    return {"input_names": [INPUT], "output_names": outputs}


def _record_trace(job: ExportJob, path: Path) -> None:
    with quiet(), torch.no_grad():
        torch.onnx.export(
            job.network,
            (job.images,),
            str(path),
            **_names(job),
            dynamo=False,
            opset_version=job.opset or OPSET,
            dynamic_axes=open_axes(job),
            do_constant_folding=True,
        )


def _record_program(job: ExportJob, path: Path) -> None:
    """Record by torch.export, without what the exporter notes about our files."""
    import onnx

    images, shapes = open_sides(job) if job.dynamic else (job.images, None)
    with quiet(), silenced(), torch.no_grad():
        torch.onnx.export(
            job.network,
            (images,),
            str(path),
            **_names(job),
            dynamo=True,
            opset_version=job.opset or PROGRAM_OPSET,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(str(path))
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for entry in (*model.graph.input, *model.graph.output):
        for axis, name in open_axes(job).get(entry.name, {}).items():
            entry.type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(model, str(path))
