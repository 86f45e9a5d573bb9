"""TorchScript archives, run by torch.

torch.jit.load runs no Python and unpickles nothing but tensors and TorchScript's own types. TorchScript is a language, though,
with operations that reach files, and code of an archive can run while it is opened. An archive is opened only where each word of its
code that names an operation of torch names one of ALLOWED. Words count wherever they stand, so that it does not matter how a call
is written, and files are read with torch's own reader, so that nothing else is seen here than what torch will run.

That holds what a file can ask for. How torch reads the pickled part of an archive, whose objects it takes to be of the types that
the code gives them, stays torch's own affair: ONNX and pt2 files are read with less trust.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from ...config.errors import UserError
from ..metadata import Metadata, read_metadata
from .pt2 import OPERATIONS, check_packing
from .runtime import Runtime, unreadable

EXTRA = "config.txt"  # as in spec/interface.md section 9
MAX_CODE = 100_000_000  # bytes
# Operations beside those of pt2: what recordings and compiled functions have, and names that parts of a network or values often bear.
ALLOWED = frozenset(name.partition(".")[0] for name in OPERATIONS) | frozenset(
    """
    Bool Float FloatImplicit Int IntImplicit NumToTensor RaiseException ScalarImplicit TupleIndex TupleUnpack __contains__
    __derive_index __getitem__ __is__ __isnot__ __not__ __range_length _convolution _convolution_mode _upsample_bicubic2d_aa
    _upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    abs_ adaptive_avg_pool1d adaptive_avg_pool3d all any append avg_pool1d avg_pool3d bilinear bitwise_and_ bitwise_or_ bitwise_xor
    cdist ceil_ center clamp_max_ clamp_min_ clear clip clip_ conv3d conv_transpose1d count cpu cross cuda cummax data degrees
    device diff dim dist dtype embedding extend feature_dropout feature_dropout_ fill find floor_ floor_divide floordiv fmod format
    gamma get glu grad hstack hypot i0 imag index_put_ indices inner insert is_autocast_enabled is_cuda is_floating_point
    is_grad_enabled is_nested isfinite isinf isnan items itemsize join keys l1_loss layout len lerp list log2 log_sigmoid
    logical_xor logit logsumexp lower mH mT masked_fill_ masked_select max_pool1d max_pool3d median mode mse_loss name neg_ negative
    nonzero norm numel one_hot outer pop positive pow_ promote_types radians range rangelist ravel real remainder remove replace
    requires_grad result_type reverse rms_norm rsqrt_ scatter scatter_ selu selu_ size smooth_l1_loss sqrt_ squeeze_ str
    stride strip swapaxes take_along_dim tensor tensor_split title trace tril triu trunc type unchecked_cast unfold unsqueeze_
    update upper upsample_bicubic2d upsample_linear1d upsample_nearest1d upsample_nearest3d upsample_trilinear3d values vstack warn
    zero_""".split()
)
WORD = re.compile(r"\w+", re.ASCII)
TEXT = re.compile(
    r"""^ *\w+ = "[^"\\\n]*"$""", re.MULTILINE
)  # a line for the text of a message, which names what it likes
# What words do not tell: attributes by a text that hides its letters, operations of other libraries, objects of C++, values taken for
# what they are not, code that runs while the archive is opened, and texts over several lines, in which TEXT would be something else.
HIDDEN = re.compile(
    r"""\bgetattr\b(?!\([\w.]+, "[^"\\\n]*"\))|(?<!\w\.)\bops\b(?!\.(?:prim|aten)\.\w|\.torchvision\.nms\b)[.\w]*"""
    r"""|\b__torch__\b(?!\.(?!torch\b)\w|\.torch\.(?!classes\b)\w)[.\w]*|\b__setstate__\b|\\\n|\"{3}|'{3}"""
    r"""|\bunchecked_cast\b(?!\((?:Tensor|bool|float|int|str|List\[(?:Tensor|float|int)\]), )""",
    re.ASCII,
)
OBJECTS = re.compile(rb"\btorch[.\n]classes\b")  # those of C++, as a pickle names them


class TorchScriptRuntime(Runtime):
    """A .torchscript file, on any device that torch has."""

    format = "torchscript"

    def __init__(self, path: Path, device: torch.device, half: bool = False):
        about = _inspect(path)
        if "torchvision" in str(about.args.get("needs", "")):
            import torchvision  # noqa: F401  brings the operation
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's advice to those who write such files
                self._module = torch.jit.load(str(path), map_location=device).eval()
        except Exception as error:
            raise unreadable(path, "TorchScript", error) from error
        dynamic = bool(about.args.get("dynamic"))
        super().__init__(path, about, device, None if dynamic else about.batch, None if dynamic else about.imgsz)
        self.runtime = f"torch {torch.__version__} (TorchScript)"

    def _run(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            found = self._module(images.to(self.device).contiguous())
        return found[0] if isinstance(found, (tuple, list)) else found


def _inspect(path: Path) -> Metadata:
    # What the archive says of itself, read without opening it. UserError for code that reaches out of it.
    try:
        with zipfile.ZipFile(path) as archive:
            check_packing(archive, path)
        reader = torch._C.PyTorchFileReader(str(path))
        names = reader.get_all_records()
        lower = [name.lower() for name in names]  # torch finds them whatever their case
        if len(set(lower)) < len(lower) or "model.json" in lower:
            raise ValueError("two files of one name" if len(set(lower)) < len(lower) else "an old layout (model.json)")
        code = [reader.get_record(name) for name in names if name.lower().endswith(".py")]
        if sum(map(len, code)) > MAX_CODE:
            raise ValueError("more code than a detector has")
        found = set().union(*(_reaching(text.decode("utf-8")) for text in code))
        if any(OBJECTS.search(reader.get_record(name)) for name in names if name.lower().endswith(".pkl")):
            found.add("torch.classes")
        extra = f"extra/{EXTRA}"
        texts = json.loads(reader.get_record(extra)) if extra in names else {}
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError) as error:
        raise unreadable(path, "TorchScript", error) from error
    if found:
        raise UserError(
            f"'{path}' has code that detectors do not need ({', '.join(sorted(found))[:100]}); it is not opened. "
            "Export the checkpoint with `bitfalcon export`, or ask its maker for an ONNX file."
        )
    return read_metadata(texts if isinstance(texts, dict) else {}, path)


def _reaching(code: str) -> set[str]:
    # What code names that is not of ALLOWED.
    known = torch._C._jit_get_schemas_for_operator
    foreign = {
        word
        for word in set(WORD.findall(TEXT.sub("", code))) - ALLOWED
        if known(f"aten::{word}") or known(f"prim::{word}")
    }
    return foreign | {match[0].replace("\\\n", "a continued line") for match in HIDDEN.finditer(code)}
