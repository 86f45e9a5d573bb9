"""Start pnnx, which writes the files of ncnn from a TorchScript archive.

The package pnnx is an executable and a Python function around it. That function runs Python code that the executable
has written, so the executable is started here itself: by its absolute path inside the installed package, with a list of
words and without a shell, in a temporary folder, on an archive that this package wrote. It reads and writes files of
that folder and opens no network address (tests/export/test_ncnn.py). No other file of this package starts a program.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from ..config.errors import UserError
from .job import imported
from .runtimes.runtime import last_line


def run_pnnx(archive: Path, size: tuple[int, int], half: bool) -> tuple[Path, Path]:
    """Convert a TorchScript archive that takes images (1, 3, H, W); returns the paths of ncnn's .param and .bin.

    All files that pnnx writes lie in the folder of the archive. size: (H, W). half: store 16-bit weights.

    Raises UserError where pnnx is broken or does not convert the archive.
    """
    with imported("pnnx", "ncnn"):
        import pnnx

    shape = f"inputshape=[1,3,{size[0]},{size[1]}]f32"
    words = [pnnx.EXEC_PATH, archive.name, shape, "device=cpu", f"fp16={int(half)}"]
    try:
        done = subprocess.run(
            words, cwd=archive.parent, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace"
        )
    except OSError as error:
        raise UserError(
            f"pnnx cannot be started ({error}). Install it again: pip install --force-reinstall 'bitfalcon[ncnn]'"
        ) from error
    written = archive.with_suffix(".ncnn.param"), archive.with_suffix(".ncnn.bin")
    if done.returncode or not all(path.is_file() for path in written):
        said = last_line(RuntimeError(done.stderr or done.stdout))
        raise UserError(f"pnnx does not convert this network (exit status {done.returncode}): {said}.")
    if unknown := _unknown_layers(written[0]):
        raise UserError(
            f"ncnn has no layer for {', '.join(unknown)} of this network (8-bit activations need some). Take another "
            "format=."
        )
    return written


def _unknown_layers(param: Path) -> list[str]:
    """The operations that pnnx left as they are: their names have a dot or colon, those of ncnn's layers have none."""
    kinds = (line.split(maxsplit=1)[0] for line in param.read_text(encoding="utf-8").splitlines()[2:] if line.strip())
    return sorted({kind for kind in kinds if "." in kind or ":" in kind})
