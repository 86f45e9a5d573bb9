"""Write an ExportedNetwork for the programs of phones and small boards."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from ..config.errors import UserError
from .job import ExportJob, imported, quiet
from .onnx_graph import record_onnx
from .pnnx_program import run_pnnx
from .runtimes import executorch as programs
from .runtimes import litert
from .runtimes.ncnn import METADATA_FILE
from .runtimes.runtime import INPUT, OUTPUT, last_line
from .runtimes.silence import silenced


def write_mnn(job: ExportJob, path: Path) -> None:
    """Write an MNN file with the metadata as JSON in its bizCode. Weights have 16 bits where the job says half.

    The converter is the function inside MNN's extension. The command `mnnconvert` would install packages and report
    what it converted.
    """
    with imported("onnx", "mnn"):
        import onnx  # noqa: F401  torch's ONNX exporter needs it
    with imported("MNN", "mnn"), silenced():
        import _tools

    with tempfile.TemporaryDirectory() as folder:
        recorded, converted = Path(folder) / "recorded.onnx", Path(folder) / "converted.mnn"
        record_onnx(job, recorded)
        words = ["mnnconvert", "-f", "ONNX", "--modelFile", str(recorded), "--MNNModel", str(converted)]
        words += ["--bizCode", json.dumps(job.metadata.texts()), *(["--fp16"] if job.half else [])]
        with silenced() as written:
            _tools.mnnconvert(words)
            said = written()
        if not converted.exists() or not converted.stat().st_size:
            raise _not_converted("MNN", said)
        shutil.copyfile(converted, path)  # MNN says nothing of a disk that is full; this does


def write_executorch(job: ExportJob, path: Path) -> None:
    """Write an ExecuTorch program whose layers are computed by XNNPACK; its method `about` returns the metadata."""
    with imported("executorch", "executorch"), silenced(), quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

    about = {programs.ABOUT: json.dumps(job.metadata.texts())}
    with silenced(), quiet(), torch.no_grad():
        lowered = to_edge_transform_and_lower(
            torch.export.export(job.network, (job.images,), strict=False),
            partitioner=[XnnpackPartitioner()],
            constant_methods=about,
        )
        path.write_bytes(lowered.to_executorch().buffer)


def write_litert(job: ExportJob, path: Path) -> None:
    """Write a .tflite file with the metadata as JSON in a ZIP archive behind the model."""
    with imported("litert_torch", "litert"), silenced(), quiet():
        import litert_torch

    with silenced(), quiet(), torch.no_grad():
        litert_torch.convert(job.network, (job.images,)).export(str(path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(litert.METADATA_FILE, json.dumps(job.metadata.texts()))


def write_ncnn(job: ExportJob, path: Path) -> None:
    """Fill the empty folder `path` with model.ncnn.param, model.ncnn.bin and metadata.yaml.

    The network is recorded for one image, because ncnn has no axis of images. Weights have 16 bits where the job says
    half.
    """
    with imported("ncnn", "ncnn"):
        import ncnn  # noqa: F401  it runs the file that is written

    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "model.pt"
        with quiet(), torch.no_grad():
            torch.jit.trace(job.network, (job.images[:1],), check_trace=False, strict=False).save(str(archive))
        for file in run_pnnx(archive, job.metadata.imgsz, job.half):
            shutil.move(file, path / file.name)
    text = yaml.safe_dump(job.metadata.values(), sort_keys=False, allow_unicode=True)
    (path / METADATA_FILE).write_text(text, encoding="utf-8")


def write_coreml(job: ExportJob, path: Path) -> None:
    """Fill the folder `path` as a Core ML package; it computes in float16 where the job says half."""
    with imported("coremltools", "coreml"), silenced():
        import coremltools

    precision = coremltools.precision.FLOAT16 if job.half else coremltools.precision.FLOAT32
    with silenced(), quiet(), torch.no_grad():
        module = torch.export.export(job.network, (job.images,), strict=False).module()
        _remove_aliases(module)
        model = coremltools.convert(  # a trace of what torch.export recorded has numbers for sizes
            torch.jit.trace(module, (job.images,), check_trace=False, strict=False),
            inputs=[coremltools.TensorType(name=INPUT, shape=tuple(job.images.shape))],
            outputs=[coremltools.TensorType(name=f"{OUTPUT}{n}") for n in range(len(job.network.outputs))],
            convert_to="mlprogram",
            compute_precision=precision,
            minimum_deployment_target=coremltools.target.iOS15,
            skip_model_load=True,
        )
        texts = job.metadata.texts()
        model.short_description, model.license = texts["description"], texts["license"]
        model.user_defined_metadata.update(texts)
        model.save(str(path))


def _remove_aliases(module: torch.fx.GraphModule) -> None:
    """Remove operations that only give their input another name, which coremltools does not know."""
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()


def _not_converted(program: str, said: str) -> UserError:
    return UserError(f"{program} does not convert this network: {last_line(RuntimeError(said))}. Take another format=.")


MOBILE_WRITERS: dict[str, Callable[[ExportJob, Path], None]] = {
    "mnn": write_mnn,
    "executorch": write_executorch,
    "litert": write_litert,
    "ncnn": write_ncnn,
    "coreml": write_coreml,
}
