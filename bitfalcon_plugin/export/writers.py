"""The writers: an ExportedNetwork network to a file of each format. Every writer gets a path to fill and leaves nothing beside it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from ..config.errors import UserError
from .metadata import Metadata
from .network import ExportedNetwork, PlainAttention
from .runtimes.openvino import SAYS
from .runtimes.runtime import last_line
from .runtimes.torchscript import EXTRA

OPSET, LEAST_OPSET, MOST_OPSET = 17, 14, 20  # what torch's recording exporter writes
MOST_BATCH, MOST_CELLS = 4096, 4096  # of dynamic sizes in pt2; the second in multiples
INPUT, OUTPUT = "images", "output0"


@dataclass(frozen=True)
class ExportJob:
    """One export. images: an example of the input, of the size to record. calibration: of int8, images of that size.

    stem: the name of the file in a format that is a folder.
    """

    network: ExportedNetwork
    images: Tensor
    about: Metadata
    dynamic: bool = False
    opset: int | None = None
    simplify: bool = True
    half: bool = False
    int8: bool = False
    calibration: tuple[Tensor, ...] = ()
    stem: str = "model"

    @property
    def extra(self) -> str:
        """The extra of this package that brings what OpenVINO's writer needs."""
        return "int8" if self.int8 else "openvino"


@contextlib.contextmanager
def imported(package: str, extra: str) -> Iterator[None]:
    """For the import of an optional package that is installed (formats.require): UserError where that is broken."""
    try:
        yield
    except Exception as error:  # a library that is not there is an ImportError, or whatever the package makes of it
        raise UserError(
            f"{package} is installed but cannot be imported: {last_line(error)}. Install it again: "
            f"pip install --force-reinstall 'bitfalcon[{extra}]'"
        ) from error


def write_onnx(job: ExportJob, path: Path) -> None:
    """An ONNX file: input `images`, output `output0`, the metadata as metadata_props."""
    with imported("onnx", "export"):
        import onnx
    with imported("onnxruntime", "export"):
        import onnxruntime  # noqa: F401  what was written is run by it

    _record(job, path)
    if job.simplify:
        _simplify(path)
    graph = onnx.load(str(path))
    _say_rows(graph, job)
    used = {node.domain for node in graph.graph.node}
    kept = [item for item in graph.opset_import if item.domain in used]
    del graph.opset_import[:]
    graph.opset_import.extend(kept)
    for key, text in job.about.texts().items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, text
    graph.producer_name, graph.producer_version = "bitfalcon", job.about.texts()["version"]
    onnx.save(graph, str(path))


def _say_rows(graph: object, job: ExportJob) -> None:
    # The recorder names what it cannot follow. Other runtimes read the number of classes from here.
    sides = graph.graph.output[0].type.tensor_type.shape.dim
    rule = job.network.suppression
    sides[1].dim_value = rule.max_det if rule else 4 + len(job.about.names)
    if not job.dynamic:
        sides[0].dim_value = job.about.batch


def _record(job: ExportJob, path: Path) -> None:
    opset = OPSET if job.opset is None else job.opset
    if not LEAST_OPSET <= opset <= MOST_OPSET:
        raise UserError(
            f"opset={opset}: expected {LEAST_OPSET} to {MOST_OPSET}, or none for {OPSET}, which runtimes since 2022 take."
        )
    anchors = {} if job.network.suppression else {2: "anchors"}
    axes = {INPUT: {0: "batch", 2: "height", 3: "width"}, OUTPUT: {0: "batch", **anchors}} if job.dynamic else None
    with quiet(), torch.no_grad():
        torch.onnx.export(
            job.network,
            (job.images,),
            str(path),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamo=False,
            opset_version=opset,
            dynamic_axes=axes,
            do_constant_folding=True,
        )


def _simplify(path: Path) -> None:
    # Constants are folded and nodes without effect left out by onnxruntime itself, to operations of ONNX alone. Half the nodes go.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def write_torchscript(job: ExportJob, path: Path) -> None:
    """A TorchScript archive, the metadata as JSON in its extra file config.txt."""
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(job.network, (job.images,), check_trace=False, strict=False)
        buffer = io.BytesIO()  # an archive that is written to a path has that of the temporary file inside
        torch.jit.save(traced, buffer, _extra_files={EXTRA: json.dumps(job.about.texts())})
    path.write_bytes(buffer.getbuffer())


def write_pt2(job: ExportJob, path: Path) -> None:
    """A torch.export archive, the metadata as JSON in its extra file config.txt. Without traces of where the code lay."""
    from torch.export import Dim, export, save

    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8):
        raise UserError(
            f"format=pt2 needs torch 2.8 or newer, this is {torch.__version__}: its archives were laid out otherwise before."
        )
    shapes = None
    if job.dynamic:
        sides = (job.network.model.multiple * Dim(name, min=1, max=MOST_CELLS) for name in ("rows", "columns"))
        shapes = {INPUT: {0: Dim("batch", min=1, max=MOST_BATCH), **dict(zip((2, 3), sides))}}
    images = (
        job.images.repeat(2, 1, 1, 1)[:2] if job.dynamic and len(job.images) == 1 else job.images
    )  # 1 would be taken for fixed
    with quiet(), torch.no_grad():
        program = export(job.network, (images,), dynamic_shapes=shapes, strict=False)
        for node in program.graph.nodes:
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
                node.meta.pop(key, None)
        buffer = io.BytesIO()
        save(program, buffer, extra_files={EXTRA: json.dumps(job.about.texts())})
    path.write_bytes(buffer.getbuffer())


def write_openvino(job: ExportJob, path: Path) -> None:
    """A folder: <job.stem>.xml and .bin, and metadata.yaml. `path` is the folder, which exists and is empty."""
    with imported("onnx", job.extra):
        import onnx  # noqa: F401  torch's recorder takes it
    with imported("openvino", job.extra):
        import openvino
    if job.int8:
        with imported("nncf", job.extra), quiet():
            import nncf  # noqa: F401  now, and not after the conversion

    with tempfile.TemporaryDirectory(dir=path) as folder:
        recorded = Path(folder) / "recorded.onnx"
        _record(job, recorded)
        network = openvino.convert_model(recorded)
    if job.int8:
        network = _quantised(network, job)
    openvino.save_model(network, path / f"{job.stem}.xml", compress_to_fp16=job.half)
    texts = job.about.texts()
    plain = {
        **texts,
        "stride": job.about.multiple,
        "batch": job.about.batch,
        "imgsz": list(job.about.imgsz),
        "names": dict(job.about.names),
        "args": dict(job.about.args),
        "channels": 3,
        "end2end": False,
    }
    (path / SAYS).write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _quantised(network: object, job: ExportJob) -> object:
    # Attention, the head and what decodes it stay in floating point: with them in 8 bits a detector of scale n lost 0.026 AP, without
    # 0.008. Nodes are named after the modules they come from.
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    attention = {
        name.rpartition(".")[2] for name, module in job.network.named_modules() if isinstance(module, PlainAttention)
    }
    head = len(job.network.model.model) - 1
    patterns = [
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
            ignored_scope=nncf.IgnoredScope(patterns=patterns, validate=False),
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's recorders say about their own future, about sizes that are kept as they are and about compilers."""
    names = ("torch.onnx", "torch.export", "torch.fx", "torch.utils.cpp_extension")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


WRITERS: dict[str, Callable[[ExportJob, Path], None]] = {
    "onnx": write_onnx,
    "torchscript": write_torchscript,
    "pt2": write_pt2,
    "openvino": write_openvino,
}
