"""TorchScript archives, run by torch.

torch.jit.load runs no Python and unpickles nothing but tensors and TorchScript's own types. TorchScript is a language, though,
with operations that reach files, and code of an archive can run while it is opened; an archive with such code is refused first.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from .interface import Engine, unreadable
from .metadata import Metadata, read_metadata

EXTRA = "config.txt"  # as in spec/interface.md section 9
REACHING = re.compile(r"\b(save|load|from_file|open|backward)\s*\(|\bops\.(?!prim\b|aten\b|quantized\b|torchvision\.nms\b)\w+")
MAX_CODE = 100_000_000  # bytes


class TorchScriptEngine(Engine):
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
            sizes = {item.filename: item.file_size for item in archive.infolist()}
            code = [name for name in sizes if "/code/" in name and name.endswith(".py")]
            if sum(sizes[name] for name in code) > MAX_CODE:
                raise ValueError("more code than a detector has")
            found = {match[0] for name in code for match in REACHING.finditer(archive.read(name).decode("utf-8"))}
            extra = next((name for name in sizes if name.endswith(f"/extra/{EXTRA}")), None)
            texts = json.loads(archive.read(extra)) if extra and sizes[extra] < MAX_CODE else {}
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError) as error:
        raise unreadable(path, "TorchScript", error) from error
    if found:
        raise UserError(f"'{path}' has code that detectors do not need ({', '.join(sorted(found))[:100]}); it is not opened.")
    return read_metadata(texts if isinstance(texts, dict) else {}, path)
