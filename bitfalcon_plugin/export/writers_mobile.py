"""Write an ExportedNetwork for the programs of phones and small boards."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..config.errors import UserError
from .job import ExportJob, imported
from .onnx_graph import record_onnx
from .runtimes.runtime import last_line
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
        recorded = Path(folder) / "recorded.onnx"
        record_onnx(job, recorded)
        words = ["mnnconvert", "-f", "ONNX", "--modelFile", str(recorded), "--MNNModel", str(path)]
        words += ["--bizCode", json.dumps(job.metadata.texts()), *(["--fp16"] if job.half else [])]
        with silenced() as written:
            _tools.mnnconvert(words)
            said = written()
    if not path.exists() or not path.stat().st_size:
        raise UserError(f"MNN does not convert this network: {last_line(RuntimeError(said))}. Take another format=.")


MOBILE_WRITERS: dict[str, Callable[[ExportJob, Path], None]] = {"mnn": write_mnn}
