"""Write an ExportedNetwork as a file of each format. A writer fills its path and leaves nothing beside it.

The formats of phones and small boards: writers_mobile.py. TensorRT: writer_tensorrt.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from ..config.errors import UserError
from .job import ExportJob, imported, quiet
from .network import PlainAttention
from .onnx_graph import open_axes, open_sides, record_onnx
from .runtimes.openvino import METADATA_FILE
from .runtimes.torchscript import METADATA_RECORD
from .writer_tensorrt import write_engine
from .writers_mobile import MOBILE_WRITERS


def write_onnx(job: ExportJob, path: Path) -> None:
    """Write an ONNX file with the input `images`, outputs from `output0` on and the metadata as metadata_props."""
    with imported("onnx", "export"):
        import onnx
    with imported("onnxruntime", "export"):
        import onnxruntime  # noqa: F401  it runs the file that is written

    record_onnx(job, path, job.maintained)
    if job.simplify:
        _simplify(path)
    model = onnx.load(str(path))
    _set_output_shapes(model, job)
    domains = {node.domain for node in model.graph.node}
    opsets = [item for item in model.opset_import if item.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    texts = job.metadata.texts()
    for key, text in texts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, text
    model.producer_name, model.producer_version = "bitfalcon", texts["version"]
    onnx.save(model, str(path))


def _set_output_shapes(model: object, job: ExportJob) -> None:
    # The exporter leaves sides open that it cannot follow. Other runtimes read the number of classes from the shape.
    with torch.no_grad():
        given = job.network(job.images)
    axes = open_axes(job)
    for entry, output in zip(model.graph.output, given if isinstance(given, tuple) else (given,), strict=True):
        sides = entry.type.tensor_type.shape.dim
        for axis, length in enumerate(output.shape):
            if axis not in axes.get(entry.name, {}):
                sides[axis].dim_value = length


def _simplify(path: Path) -> None:
    # onnxruntime folds constants and removes nodes without effect, half of all nodes. What is left is plain ONNX.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def write_torchscript(job: ExportJob, path: Path) -> None:
    """Write a TorchScript archive with the metadata as JSON in its extra file config.txt."""
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(job.network, (job.images,), check_trace=False, strict=False)
        buffer = io.BytesIO()  # an archive that is saved to a path has the name of the temporary file inside
        torch.jit.save(traced, buffer, _extra_files={METADATA_RECORD: json.dumps(job.metadata.texts())})
    path.write_bytes(buffer.getbuffer())


def write_pt2(job: ExportJob, path: Path) -> None:
    """Write a torch.export archive with the metadata as JSON in its extra file config.txt, and no path of our code."""
    from torch.export import export, save

    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8):
        raise UserError(
            f"format=pt2 needs torch 2.8 or newer, this is {torch.__version__}, whose archives are laid out otherwise."
        )
    images, shapes = open_sides(job) if job.dynamic else (job.images, None)
    with quiet(), torch.no_grad():
        program = export(job.network, (images,), dynamic_shapes=shapes, strict=False)
        for node in program.graph.nodes:
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
                node.meta.pop(key, None)
        buffer = io.BytesIO()
        save(program, buffer, extra_files={METADATA_RECORD: json.dumps(job.metadata.texts())})
    path.write_bytes(buffer.getbuffer())


def write_openvino(job: ExportJob, path: Path) -> None:
    """Fill the empty folder `path` with <job.stem>.xml, <job.stem>.bin and metadata.yaml."""
    with imported("onnx", job.openvino_extra):
        import onnx  # noqa: F401  torch's ONNX exporter needs it
    with imported("openvino", job.openvino_extra):
        import openvino
    if job.int8:
        with imported("nncf", job.openvino_extra), quiet():
            import nncf  # noqa: F401  a broken package is noticed before the conversion

    with tempfile.TemporaryDirectory(dir=path) as folder:
        recorded = Path(folder) / "recorded.onnx"
        record_onnx(job, recorded)
        network = openvino.convert_model(recorded)
    for operation in network.get_ops():  # of equal scores the first is first, as ONNX says; the conversion loses it
        if operation.get_type_name() == "TopK":
            operation.set_attribute("stable", True)
    if job.int8:
        network = _quantised(network, job)
    openvino.save_model(network, path / f"{job.stem}.xml", compress_to_fp16=job.half)
    text = yaml.safe_dump(job.metadata.values(), sort_keys=False, allow_unicode=True)
    (path / METADATA_FILE).write_text(text, encoding="utf-8")


def _quantised(network: object, job: ExportJob) -> object:
    """The OpenVINO network with 8-bit arithmetic, except in attention, the head and the decoding.

    With those in 8 bits as well a detector of scale n lost 0.026 AP, without them 0.008.
    """
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    attention = {
        name.rpartition(".")[2] for name, module in job.network.named_modules() if isinstance(module, PlainAttention)
    }
    head = len(job.network.model.model) - 1
    float_nodes = [  # patterns of node names, which are the names of the modules that they come from
        "^(?!/model/).*",
        f"^/model/model\\.{head}/.*",
        *(f".*/{re.escape(name)}/.*" for name in sorted(attention)),
    ]
    with contextlib.redirect_stdout(None), quiet():
        return nncf.quantize(
            network,
            nncf.Dataset(job.calibration, lambda x: x.numpy()),
            subset_size=len(job.calibration),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(patterns=float_nodes, validate=False),
        )


WRITERS: dict[str, Callable[[ExportJob, Path], None]] = {
    "onnx": write_onnx,
    "torchscript": write_torchscript,
    "pt2": write_pt2,
    "openvino": write_openvino,
    "engine": write_engine,
    **MOBILE_WRITERS,
}
