"""TorchScript archives, run by torch.

torch.jit.load runs no Python and unpickles nothing but tensors and TorchScript's own types. But TorchScript is a
language with operations that reach files, and code of an archive can run while the archive is opened. So an archive is
opened only where each word of its code that names an operation of torch names one of ALLOWED. Words count wherever they
stand, so it does not matter how a call is written. Files are read with torch's own reader, so the code that is checked
is the code that torch runs.

This limits what a file can ask for. It does not limit how torch reads the pickled part of an archive, whose objects
torch takes to be of the types that the code gives them. ONNX and pt2 files need less trust.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...config.errors import UserError
from ..metadata import Metadata, read_metadata
from .pt2 import check_packing
from .pt2_program import OPERATIONS
from .runtime import Runtime, recorded_shape, unreadable

METADATA_RECORD = "config.txt"  # as in spec/interface.md section 9
MAX_CODE = 100_000_000  # bytes
# Besides the operations of pt2: those of traced and scripted functions, and operations whose name a part of a network
# or a value often has.
ALLOWED = frozenset(name.partition(".")[0] for name in OPERATIONS) | frozenset(
    """
    Bool Float FloatImplicit Int IntImplicit NumToTensor RaiseException ScalarImplicit TupleIndex TupleUnpack
    __contains__ __derive_index __getitem__ __is__ __isnot__ __not__ __range_length _convolution _convolution_mode
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d abs_ adaptive_avg_pool1d adaptive_avg_pool3d all angle any
    append avg_pool1d avg_pool3d bilinear bitwise_and_ bitwise_or_ bitwise_xor cdist ceil_ center clamp_max_ clamp_min_
    clear clip clip_ conv3d conv_transpose1d count cpu cross cuda cummax data degrees device diff dim dist dtype
    embedding extend feature_dropout feature_dropout_ fill find floor_ floor_divide floordiv fmod format gamma get
    glu grad hstack hypot i0 imag index_put_ indices inner insert is_autocast_enabled is_cuda is_floating_point
    is_grad_enabled is_nested isfinite isinf isnan items itemsize join keys l1_loss layout len lerp list log2
    log_sigmoid logical_xor logit logsumexp lower mH mT masked_fill_ masked_select max_pool1d max_pool3d median mode
    mse_loss name neg_ negative nonzero norm numel one_hot outer pop positive pow_ promote_types radians range
    rangelist ravel real remainder remove replace requires_grad result_type reverse rms_norm rsqrt_ scatter scatter_
    selu selu_ size smooth_l1_loss sqrt_ squeeze_ str stride strip swapaxes take_along_dim tensor tensor_split title
    trace tril triu trunc type unchecked_cast unfold unsqueeze_ update upper upsample_bicubic2d upsample_linear1d
    upsample_nearest1d upsample_nearest3d upsample_trilinear3d values vstack warn zero_
    """.split()
)
WORD = re.compile(r"\w+", re.ASCII)
TEXT = re.compile(
    r"""^ *\w+ = "[^"\\\n]*"$""", re.MULTILINE
)  # a line with the text of a message; its words call nothing
# What words do not show: attributes by a text that hides its letters, operations of other libraries, objects of C++,
# values that are taken for another type, code that runs while the archive is opened, and texts over several lines,
# which TEXT would misread.
HIDDEN = re.compile(
    r"""\bgetattr\b(?!\([\w.]+, "[^"\\\n]*"\))|(?<!\w\.)\bops\b(?!\.(?:prim|aten)\.\w|\.torchvision\.nms\b)[.\w]*"""
    r"""|\b__torch__\b(?!\.(?!torch\b)\w|\.torch\.(?!classes\b)\w)[.\w]*|\b__setstate__\b|\\\n|\"{3}|'{3}"""
    r"""|\bunchecked_cast\b(?!\((?:Tensor|bool|float|int|str|List\[(?:Tensor|float|int)\]), )""",
    re.ASCII,
)
CPP_OBJECTS = re.compile(rb"\btorch[.\n]classes\b")  # as a pickle names them


class TorchScriptRuntime(Runtime):
    """A .torchscript file. It runs on any device that torch has."""

    format = "torchscript"

    def __init__(self, path: Path, device: torch.device, half: bool = False, task: str | None = None):
        metadata = _inspect(path, task)
        if "torchvision" in str(metadata.args.get("needs", "")):
            import torchvision  # noqa: F401  registers its operations with torch
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's advice to those who write TorchScript
                self._module = torch.jit.load(str(path), map_location=device).eval()
        except Exception as error:
            raise unreadable(path, "TorchScript", error) from error
        super().__init__(path, metadata, device, *recorded_shape(metadata))
        self.runtime = f"torch {torch.__version__} (TorchScript)"

    def _run(self, images: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return self._module(images.to(self.device).contiguous())


def _inspect(path: Path, task: str | None) -> Metadata:
    """Check the code of an archive and return its metadata, without opening it. task: as for read_metadata.

    Raises UserError for a file that is no such archive, and for code that calls what detectors do not need.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_packing(archive, path)
        reader = torch._C.PyTorchFileReader(str(path))
        names = reader.get_all_records()
        _check_names(names)
        code = [reader.get_record(name) for name in names if name.lower().endswith(".py")]
        if sum(map(len, code)) > MAX_CODE:
            raise ValueError("more code than a detector has")
        foreign = set().union(*(_foreign_words(text.decode("utf-8")) for text in code))
        if any(CPP_OBJECTS.search(reader.get_record(name)) for name in names if name.lower().endswith(".pkl")):
            foreign.add("torch.classes")
        record = f"extra/{METADATA_RECORD}"
        texts = json.loads(reader.get_record(record)) if record in names else {}
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError) as error:
        raise unreadable(path, "TorchScript", error) from error
    if foreign:
        raise UserError(
            f"'{path}' has code that detectors do not need ({', '.join(sorted(foreign))[:100]}); it is not opened. "
            "Export the checkpoint with `bitfalcon export`, or ask its maker for an ONNX file."
        )
    return read_metadata(texts if isinstance(texts, dict) else {}, path, task)


def _check_names(names: list[str]) -> None:
    """Raise ValueError for two records of one name in any case, as torch looks them up, and for the old layout."""
    lower = {name.lower() for name in names}
    if len(lower) < len(names):
        raise ValueError("two files of one name")
    if "model.json" in lower:
        raise ValueError("an old layout (model.json)")


def _foreign_words(code: str) -> set[str]:
    """The words of TorchScript that name an operation outside ALLOWED, and what HIDDEN matches."""
    schemas_of = torch._C._jit_get_schemas_for_operator
    words = set(WORD.findall(TEXT.sub("", code))) - ALLOWED
    foreign = {word for word in words if schemas_of(f"aten::{word}") or schemas_of(f"prim::{word}")}
    return foreign | {match[0].replace("\\\n", "a continued line") for match in HIDDEN.finditer(code)}
