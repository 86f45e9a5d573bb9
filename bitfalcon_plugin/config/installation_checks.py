"""The command `bitfalcon checks`: versions compared with the requirements, and the devices that torch can use."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata

from .json_output import print_document
from .printable import say
from .threads import usable_processors, waiting_text
from .version import __version__


def run_checks(as_json: bool = False) -> int:
    """Print versions and devices, as_json: as a JSON object; return 1 where a requirement is not met, otherwise 0."""
    lines = [
        ("bitfalcon", __version__),
        ("Python", platform.python_version()),
        ("system", platform.platform()),
        ("processors", f"{usable_processors()} of {os.cpu_count()}"),
        ("threads", waiting_text()),
    ]
    unmet = 0
    try:
        requirements = metadata.requires("bitfalcon") or []
    except metadata.PackageNotFoundError:
        lines.append(("requirements", "unknown: bitfalcon is not installed"))
        requirements = []
    for requirement in requirements:
        match = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement.replace(" ", ""))  # skips extras
        if match:
            name, minimum = match.groups()
            met, version = _installed(name, minimum)
            unmet += not met
            lines.append((name, f"{version} ({'ok' if met else 'NOT MET'}: >={minimum})"))
    lines += _devices()
    if as_json:
        print_document({**dict(lines), "unmet": unmet})
    for name, value in () if as_json else lines:
        say(f"{name:<13} {value}")
    return 1 if unmet else 0


def _installed(name: str, minimum: str) -> tuple[bool, str]:
    """Whether the installed version of a distribution is at least `minimum`, and that version."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False, "missing"
    return _numbers(version) >= _numbers(minimum), version


def _numbers(version: str) -> list[int]:
    """The numbers that a version begins with: '2.10.0+cpu' -> [2, 10, 0]."""
    return [int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part]


def _devices() -> list[tuple[str, str]]:
    try:
        import torch
    except ImportError as error:
        return [("torch", f"cannot be imported: {error}")]
    if not torch.cuda.is_available():
        return [("GPU", "none that torch can use")]
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    lines = [(f"GPU {index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB") for index, gpu in enumerate(gpus)]
    return [*lines, ("CUDA", str(torch.version.cuda))]
