"""Runs a notebook cell by cell in a kernel of this Python, and prints what the cells print.

Needs nbclient and ipykernel (extra `notebooks`). The notebook's file is not changed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..config.errors import UserError
from ..config.notes import print_note

# What the kernel runs before the first cell. The folder of this package is for one that is not installed.
FIRST_LINE = "import sys; sys.path.append({root!r}); from {module} import prepare_kernel; prepare_kernel()"
ANSI = re.compile(r"\x1b\[[0-9;]*m")
INSTALLS = re.compile(r"\s*[!%]\s*(\S*python[\d.]*\s+-m\s+)?pip[\d.]*\s+install\b")
REQUIREMENT = re.compile(r"""\s+["']?ultralytics(\[[\w,]*\])?([=<>!~]=?[^\s"']*)?["']?(?=\s|$)""")
NOTED: set[str] = set()
COMMAND = re.compile(r"^(\s*)!\s*(?:yolo|ultralytics)(?=\s|$)")


def run_notebook(path: str, arguments: Sequence[str] = ()) -> int:
    """Run the code cells of a notebook in its folder; return 0, or 1 after the error of a cell, which is printed.

    Raises UserError where nbclient or ipykernel is missing, for a file that is no notebook, and for arguments.
    """
    try:
        import nbformat
        from nbclient.exceptions import CellExecutionError
    except ImportError as error:
        raise UserError(
            "run of a notebook needs nbclient and ipykernel: pip install 'bitfalcon[notebooks]'."
        ) from error
    if arguments:
        raise UserError(f"run {path}: a notebook takes no arguments; it is given {' '.join(arguments)}.")
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # noqa: BLE001  the reader raises many kinds
        raise UserError(f"run {path}: it cannot be read as a notebook ({type(error).__name__}: {error}).") from error
    try:
        _client(notebook, Path(path).resolve().parent).execute()
    except CellExecutionError as error:
        text = str(error)
        print(text if sys.stderr.isatty() else ANSI.sub("", text), file=sys.stderr)
        return 1
    return 0


def _client(notebook, folder: Path):
    """A client with a kernel of this Python, whatever kernel the notebook names. It prints outputs as they come."""
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            line = FIRST_LINE.format(root=str(Path(__file__).resolve().parents[2]), module=__name__)
            options = [f"--IPKernelApp.exec_lines={line}", "--log-level=ERROR"]
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", *options]
            return KernelSpec(argv=command, display_name="Python", language="python")

    class Printing(NotebookClient):
        def output(self, outs, msg, display_id, cell_index):
            output = super().output(outs, msg, display_id, cell_index)
            if output is not None:
                _print_output(output)
            return output

    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisPython())
    resources = {"metadata": {"path": str(folder)}}
    return Printing(notebook, km=manager, resources=resources, timeout=None)


def _print_output(output) -> None:
    """Print one output of a cell as text; errors are printed once, at the end."""
    if output.output_type == "stream":
        print(output.text, end="", file=sys.stderr if output.name == "stderr" else sys.stdout, flush=True)
    elif output.output_type in ("execute_result", "display_data"):
        print(output.data.get("text/plain", ""), flush=True)


def prepare_kernel() -> None:
    """Install the hook in a kernel, and read `!pip install` and `!yolo` lines as `translate` says."""
    from IPython import get_ipython

    from .hook import install

    install()
    get_ipython().input_transformers_cleanup.append(translate)


def translate(lines: list[str]) -> list[str]:
    """Return the lines of a cell: `!yolo ...` runs bitfalcon, and pip is not asked for the wider package."""
    return [_translate_line(line) for line in lines]


def _translate_line(line: str) -> str:
    if COMMAND.match(line):
        return COMMAND.sub(rf'\1!"{sys.executable}" -m bitfalcon_plugin run yolo', line)
    if not INSTALLS.match(line) or not REQUIREMENT.search(line):
        return line
    if line not in NOTED:  # IPython reads a cell more than once
        print_note(f"not installed, bitfalcon is used in its place: {line.strip()}")
        NOTED.add(line)
    rest = REQUIREMENT.sub("", line)
    indent = line[: len(line) - len(line.lstrip())]
    options_only = all(word.startswith("-") for word in INSTALLS.sub("", rest).split())
    return f"{indent}pass\n" if options_only else rest
