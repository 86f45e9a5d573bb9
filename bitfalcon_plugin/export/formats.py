"""The table of export formats, for the command line, the page of exports and the code that opens files. No torch.

Names and suffixes as in spec/interface.md section 9.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from ..config.errors import UserError, WrongValueError, did_you_mean
from ..config.weight_files import names_weights

VALIDATED, REFUSED = "validated", "refused"
FROM_ONNX = "export format=onnx and convert that file with the maker's own tool"
TENSORFLOW = f"it needs TensorFlow; {FROM_ONNX}"


@dataclass(frozen=True)
class Machines:
    """The only machines that run the files of a format.

    name: as text. is_here: whether this machine is one. lack: what is missing on another one, as the end of a sentence.
    elsewhere: why another one writes no file either, and what to do instead; "" where it may write a file unchecked.
    """

    name: str
    is_here: Callable[[], bool]
    lack: str = ""
    elsewhere: str = ""


def sees_nvidia_gpu() -> bool:
    """Whether torch sees a GPU with CUDA; torch is imported here."""
    import torch

    return torch.version.cuda is not None and torch.cuda.is_available()


MACOS = Machines("macOS", lambda: sys.platform == "darwin")
NVIDIA = Machines(
    "NVIDIA GPUs",
    sees_nvidia_gpu,
    lack=", and torch sees none here",
    elsewhere="TensorRT builds each file on the GPU that runs it. Export it on a machine with one, or export "
    "format=onnx and run `trtexec --onnx=x.onnx --saveEngine=x.engine` where it is to run",
)


@dataclass(frozen=True)
class ExportFormat:
    """An entry of EXPORT_FORMATS.

    suffix: that of the file, or of the folder's name. needs: package that runs it -> extra of bitfalcon that installs
    it. to_write: further packages for writing, likewise. for_option: option -> all packages for writing with this
    option, so that a message names one extra. options: the settings that it takes besides imgsz and batch. reason: why
    the format is refused and what to do instead, or "". not_taken: option -> why it is refused and what to do instead.
    static: an export for one size is written from a network whose anchors are constants. narrows: with half=True the
    writer narrows the weights of a float32 network; otherwise the network is recorded in float16. is_folder: whether an
    export is a folder instead of a file. runs_on: the only machines that run it, None where all do. has_limits: a
    dynamic file takes a range of sizes instead of all. own_only: a file is opened only where this machine has written
    it, because its program runs what stands in it as machine code.
    """

    suffix: str
    needs: Mapping[str, str] = field(default_factory=dict)
    to_write: Mapping[str, str] = field(default_factory=dict)
    for_option: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    reason: str = ""
    not_taken: Mapping[str, str] = field(default_factory=dict)
    static: bool = False
    narrows: bool = False
    is_folder: bool = False
    runs_on: Machines | None = None
    has_limits: bool = False
    own_only: bool = False

    @property
    def status(self) -> str:
        """VALIDATED: each file is run and compared before it counts as written. REFUSED: not written here."""
        return REFUSED if self.reason else VALIDATED

    @property
    def not_here(self) -> str:
        """Why this machine cannot run files of the format, as "run on macOS only"; "" where it can."""
        return "" if self.is_run_here else f"run on {self.runs_on.name} only{self.runs_on.lack}"

    @property
    def is_run_here(self) -> bool:
        """Whether this machine can run files of the format."""
        return self.runs_on is None or self.runs_on.is_here()

    @property
    def needs_gpu(self) -> bool:
        """Whether files of the format run on NVIDIA GPUs alone."""
        return self.runs_on is NVIDIA


COMMON = ("dynamic", "half")
INT8_ELSEWHERE = "format=openvino int8=True gains"
NMS_OUTSIDE = "suppression is written for onnx, torchscript and openvino; predict and val suppress behind this file"
ONE_SIZE = "its file is written for one size; export a file for each, or format=onnx"
FLOATS = "its file has 32-bit weights here; format=mnn has 16-bit ones"
EXPORT_FORMATS: dict[str, ExportFormat] = {
    "onnx": ExportFormat(
        ".onnx",
        {"onnxruntime": "export"},
        {"onnx": "export"},
        options=(*COMMON, "nms", "opset", "simplify"),
        not_taken={"int8": f"onnxruntime computes 8-bit graphs slower on CPUs than float32 ones; {INT8_ELSEWHERE}"},
    ),
    "torchscript": ExportFormat(
        ".torchscript",
        options=(*COMMON, "nms"),
        not_taken={"int8": f"torch has no faster 8-bit arithmetic for it; {INT8_ELSEWHERE}"},
    ),
    "pt2": ExportFormat(
        ".pt2",
        options=COMMON,
        not_taken={
            "int8": f"torch has no faster 8-bit arithmetic for it; {INT8_ELSEWHERE}",
            "nms": "suppression ends when nothing is left, which a torch.export graph cannot say; the other formats "
            "take it",
        },
    ),
    # OpenVINO converts what torch's recorder wrote, and that needs onnx.
    "openvino": ExportFormat(
        "_openvino_model",
        {"openvino": "openvino"},
        {"onnx": "openvino"},
        {"int8": {"openvino": "int8", "onnx": "int8", "nncf": "int8"}},
        (*COMMON, "int8", "nms", "opset"),
        narrows=True,
        is_folder=True,
    ),
    # MNN converts what torch's recorder wrote, and that needs onnx.
    "mnn": ExportFormat(
        ".mnn",
        {"MNN": "mnn"},
        {"onnx": "mnn"},
        options=COMMON,
        not_taken={"int8": INT8_ELSEWHERE, "nms": NMS_OUTSIDE},
        static=True,
        narrows=True,
    ),
    "executorch": ExportFormat(
        ".pte",
        {"executorch": "executorch"},
        not_taken={"dynamic": ONE_SIZE, "half": FLOATS, "int8": INT8_ELSEWHERE, "nms": NMS_OUTSIDE},
        static=True,
    ),
    "litert": ExportFormat(
        ".tflite",
        {"ai_edge_litert": "litert"},
        {"litert_torch": "litert"},
        not_taken={"dynamic": ONE_SIZE, "half": FLOATS, "int8": INT8_ELSEWHERE, "nms": NMS_OUTSIDE},
        static=True,
    ),
    "ncnn": ExportFormat(
        "_ncnn_model",
        {"ncnn": "ncnn"},
        {"pnnx": "ncnn"},
        options=("half",),
        not_taken={"dynamic": ONE_SIZE, "int8": INT8_ELSEWHERE, "nms": NMS_OUTSIDE},
        static=True,
        narrows=True,
        is_folder=True,
    ),
    "coreml": ExportFormat(
        ".mlpackage",
        {"coremltools": "coreml"},
        options=("half",),
        not_taken={"dynamic": ONE_SIZE, "int8": INT8_ELSEWHERE, "nms": NMS_OUTSIDE},
        static=True,
        narrows=True,
        is_folder=True,
        runs_on=MACOS,
    ),
    # TensorRT converts what torch's recorder wrote, and that needs onnx.
    "engine": ExportFormat(
        ".engine",
        {"tensorrt": "tensorrt"},
        {"onnx": "tensorrt"},
        options=(*COMMON, "workspace"),
        not_taken={"int8": f"half=True gains on GPUs; on CPUs {INT8_ELSEWHERE}", "nms": NMS_OUTSIDE},
        static=True,
        runs_on=NVIDIA,
        has_limits=True,
        own_only=True,
    ),
    "saved_model": ExportFormat("_saved_model", reason=f"{TENSORFLOW} (onnx2tf)"),
    "pb": ExportFormat(".pb", reason=f"frozen graphs of TensorFlow 1 are not made any more; {FROM_ONNX} (onnx2tf)"),
    "edgetpu": ExportFormat(
        "_edgetpu.tflite", reason=f"it needs TensorFlow and Google's compiler; {FROM_ONNX} (onnx2tf, edgetpu_compiler)"
    ),
    "tfjs": ExportFormat(
        "_web_model", reason="it needs TensorFlow; export format=onnx, which onnxruntime-web runs in browsers"
    ),
    "paddle": ExportFormat("_paddle_model", reason=f"it needs PaddlePaddle; {FROM_ONNX} (x2paddle)"),
    "imx": ExportFormat("_imx_model", reason=f"it needs Sony's converter; {FROM_ONNX}"),
    "rknn": ExportFormat("_rknn_model", reason=f"it needs Rockchip's toolkit; {FROM_ONNX} (rknn-toolkit2)"),
}
ALIASES = {"jit": "torchscript", "ov": "openvino", "ort": "onnx", "onnxruntime": "onnx"}
ALIASES |= {"tensorrt": "engine", "trt": "engine", "mlpackage": "coreml", "tflite": "litert", "pte": "executorch"}
# Option of an export -> its default.
OPTIONS = {"dynamic": False, "half": False, "int8": False, "nms": None, "opset": None, "simplify": True}
OTHER_SUFFIXES = {".xml": "openvino", ".trt": "engine", ".mlmodel": "coreml"}
WRITABLE_FORMATS = tuple(name for name, row in EXPORT_FORMATS.items() if not row.reason)


def find_format(name: str) -> str:
    """The format that `name` means: a key of EXPORT_FORMATS, an alias or a suffix, in any case.

    Raises WrongValueError for an unknown name, with the nearest, and for a refused format, with what to do instead.
    """
    word = str(name).strip().lower().removeprefix(".")
    word = ALIASES.get(word, word)
    if "," in word:
        raise WrongValueError(
            f"format={str(name)[:60]}: export writes one format at a time. Run it again for the others."
        )
    if word not in EXPORT_FORMATS:
        hint = did_you_mean(word, (*EXPORT_FORMATS, *ALIASES))
        raise WrongValueError(
            f"format={str(name)[:60]}: there is no such format; expected one of {', '.join(WRITABLE_FORMATS)}.{hint}"
        )
    if reason := EXPORT_FORMATS[word].reason:
        raise WrongValueError(f"format={name} is not written here: {reason}.")
    return word


def format_of(path: str | Path) -> str | None:
    """The format of a file or folder by its name, also a refused one; None for what is no exported model."""
    name = str(path).rstrip("/\\").lower()
    suffixes = [*OTHER_SUFFIXES.items(), *((row.suffix, key) for key, row in EXPORT_FORMATS.items())]
    suffixes.sort(key=lambda pair: -len(pair[0]))  # _edgetpu.tflite before .tflite
    return next((format_ for suffix, format_ in suffixes if name.endswith(suffix)), None)


class ModelKind(Enum):
    """What the value of `model=` may name."""

    GRAPH = "graph"
    CHECKPOINT = "checkpoint"
    EXPORTED = "exported model"


def model_kind(model: str | Path) -> ModelKind:
    """What `model` names, by its suffix: a checkpoint (.pt, .pth, .safetensors), an exported model, or else a graph.

    A folder that holds model.safetensors is a checkpoint, also one in the folders of weights.
    """
    if names_weights(model):
        return ModelKind.CHECKPOINT
    return ModelKind.EXPORTED if format_of(model) else ModelKind.GRAPH


def require(format_: str, *, writing: bool = False, options: Iterable[str] = (), setting: str = "format") -> None:
    """Raise UserError for the first package that a format needs and that is not installed, with the extra that has it.

    writing: whether a file is to be written, with these options. setting: the one by which the user chose the format.
    """
    row = EXPORT_FORMATS[format_]
    needy = [option for option in options if writing and option in row.for_option]
    needs = {**row.needs, **(row.to_write if writing else {})}
    for option in needy:
        needs.update(row.for_option[option])
    for package, extra in needs.items():
        if importlib.util.find_spec(package) is None:
            cause = "".join(f" {option}=True" for option in needy if package in row.for_option[option])
            raise UserError(f"{setting}={format_}{cause} needs the package {package}: pip install 'bitfalcon[{extra}]'")


def support_table() -> str:
    """The table of the page of exports as Markdown, a line for each format; ends with a line break."""
    lines = ["| format | file | status | takes, beside `imgsz` and `batch` | needs |", "|---|---|---|---|---|"]
    for name, row in EXPORT_FORMATS.items():
        suffix = f"`x{row.suffix}{'/' if row.is_folder or row.suffix.startswith('_') else ''}`"
        options = ", ".join(f"`{option}`" for option in row.options) or ("" if row.reason else "nothing")
        options += "".join(f"; not `{option}`: {reason}" for option, reason in row.not_taken.items())
        extras = ", ".join(f"`bitfalcon[{extra}]`" for extra in sorted(set(row.needs.values())))
        extras += "".join(
            f"; `{option}`: `bitfalcon[{extra}]`"
            for option, needs in row.for_option.items()
            for extra in {*needs.values()}
        )
        status = f"refused: {row.reason}" if row.reason else row.status
        if row.runs_on:
            refused = f"refused: {row.runs_on.elsewhere}" if row.runs_on.elsewhere else ""
            status += f" on {row.runs_on.name}; elsewhere {refused or 'written with `unchecked=True` only'}"
        cells = [f"`{name}`", suffix, status, options, extras]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
