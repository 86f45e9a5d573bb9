"""Cache files of plain tensors, numbers and text, each with a digest of its content.

torch's loader for weights alone reads them, so that no code in them is run. A file that is broken, cut off or another
program's is no file: what it held is computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..config.files import atomic


def save_packed(file: Path, content: Mapping[str, object]) -> None:
    """Write `content`, name -> tensor or plain value, atomically; nothing is written where the disk refuses it."""
    try:
        with atomic(file) as temporary:
            torch.save({**content, "digest": _digest(content)}, temporary)
    except (OSError, RuntimeError):  # torch reports a full disk as a RuntimeError; the next run computes it again
        pass


def load_packed(file: Path) -> dict[str, object] | None:
    """Return the content that `save_packed` wrote; None if there is no such file or it is broken."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        return content if content.pop("digest") == _digest(content) else None
    except Exception:  # missing, cut off, another program's: torch's loader raises errors of any class
        return None


def _digest(content: Mapping[str, object]) -> str:
    """A digest of the whole content: torch's loader does not notice a flipped bit."""
    plain = {name: value for name, value in sorted(content.items()) if not isinstance(value, Tensor)}
    digest = hashlib.blake2b(repr(plain).encode("utf-8", "surrogateescape"))
    for name, value in sorted(content.items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
