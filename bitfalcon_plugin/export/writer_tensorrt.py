"""Write an ExportedNetwork as an engine of TensorRT, on the GPU that is to run it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from ..compat.allowed import cut_line
from ..config.errors import UserError
from ..config.notes import print_note
from .input_limits import read_limits
from .job import ExportJob, imported
from .metadata import MAX_NAME
from .onnx_graph import record_onnx
from .runtimes.runtime import INPUT
from .runtimes.tensorrt import GPU_KEY, VERSION_KEY, last_error, logger, write_engine_file

EXTRA = "tensorrt"
GIB = 1 << 30


def write_engine(job: ExportJob, path: Path) -> None:
    """Write an .engine file (see runtimes/tensorrt.py) for the GPU job.device.

    The layers compute in the types of the ONNX graph: float32, or float16 where the job says half. Sums in float32 are
    not shortened to TF32.
    """
    with imported("onnx", EXTRA):
        import onnx  # noqa: F401  torch's ONNX exporter needs it
    with imported("tensorrt", EXTRA):
        import tensorrt

    with tempfile.TemporaryDirectory() as folder:
        recorded = Path(folder) / "recorded.onnx"
        record_onnx(job, recorded)
        graph = recorded.read_bytes()
    gpu = torch.cuda.get_device_name(job.device)
    print_note(f"TensorRT tries kernels on {gpu}, which takes minutes.")
    with torch.cuda.device(job.device):
        plan = _build(tensorrt, graph, job)
        texts = {**job.metadata.texts(), VERSION_KEY: tensorrt.__version__, GPU_KEY: gpu}
        write_engine_file(path, texts, plan)


def _build(tensorrt: object, graph: bytes, job: ExportJob) -> object:
    """Build an engine of an ONNX graph; returns it serialized, as a buffer."""
    try:
        builder = tensorrt.Builder(logger())
    except TypeError as error:  # CUDA cannot be used
        raise _not_built(last_error()) from error
    # TensorRT 10 keeps to the types of the graph if it is told so; 11 always does, and deprecates the flag.
    typed = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = tensorrt.OnnxParser(network, logger())
    if not parser.parse(graph):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise _not_built(cut_line(errors[0], MAX_NAME) if errors else last_error())
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)  # its 10 bits of a factor move boxes further than float32 may
    if job.workspace is not None:
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, int(job.workspace * GIB))
    if job.dynamic:
        limits = read_limits(job.metadata.args)
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT, limits.least, limits.usual, limits.most)
        if config.add_optimization_profile(profile) < 0:
            raise _not_built(last_error())
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _not_built(last_error())
    return plan


def _not_built(reason: str) -> UserError:
    return UserError(f"TensorRT does not build this network: {reason.rstrip('.')}. Take another format=.")
