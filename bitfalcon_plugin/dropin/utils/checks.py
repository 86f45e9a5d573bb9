"""Checks of versions, files and sizes. Nothing is installed or fetched.

Written from spec/dropin-helpers.md section 10.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import platform
import re
import shutil
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from ...config.default_table import table
from ...config.errors import MissingFileError, UserError
from ...config.files import cfg_dir
from ...config.installation_checks import run_checks
from ...config.values import literal
from ...config.version import __version__
from ...config.yaml_files import find_model
from . import ARM64, LINUX, LOGGER, MACOS, WINDOWS, clean_url, colorstr, is_dir_writeable
from .torch_utils import get_cpu_info, select_device

COMPARE = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    "~=": lambda a, b: a >= b and a[: len(b) - 1] == b[:-1],
}


def parse_version(version: str = "0.0.0") -> tuple[int, ...]:
    """Return the first three numbers of a version: "2.0.1+cpu" is (2, 0, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", str(version).split("+")[0])[:3])


def check_version(
    current: str = "0.0.0",
    required: str = "0.0.0",
    name: str = "version",
    hard: bool = False,
    verbose: bool = False,
    msg: str = "",
) -> bool:
    """Return whether a version, or that of an installed package, meets a text such as ">=1.2,<2"; a bare number: >=.

    hard: raise ModuleNotFoundError where it does not. verbose: log that. msg: more of the message.
    """
    if not current:
        return True
    if not current[0].isdigit():
        name = current
        try:
            current = importlib.metadata.version(current)
        except importlib.metadata.PackageNotFoundError as error:
            if hard:
                raise ModuleNotFoundError(f"{name}{required} is required and not installed. {msg}") from error
            return False
    if not required:
        return True
    met = True
    for part in required.replace(" ", "").strip(",").split(","):
        operator, version = re.fullmatch(r"([<>=!~]*)(.*)", part).groups()  # type: ignore[union-attr]
        numbers = [parse_version(text) for text in (current, version)]
        length = max(map(len, numbers))
        have, want = (item + (0,) * (length - len(item)) for item in numbers)
        met &= COMPARE[operator or ">="](have, want if operator != "~=" else numbers[1])
    if not met and (hard or verbose):
        text = f"{name}{required} is required, and {name}=={current} is installed. {msg}".strip()
        if hard:
            raise ModuleNotFoundError(text)
        LOGGER.warning("%s", text)
    return met


def check_python(minimum: str = "3.10.0", hard: bool = True, verbose: bool = False) -> bool:
    """Return whether Python has at least a version."""
    return check_version(platform.python_version(), minimum, "Python", hard, verbose)


def check_torchvision() -> None:
    """Do nothing: the packages' own requirements hold torch and torchvision together."""


def parse_requirements(file_path: str | Path = "requirements.txt", package: str = "") -> list[Any]:
    """Return namespaces name, specifier of a file of requirements, or of those of an installed package."""
    from types import SimpleNamespace

    lines = importlib.metadata.requires(package) or [] if package else Path(file_path).read_text().splitlines()
    if package:
        lines = [line for line in lines if "extra ==" not in line]
    found = []
    for line in lines:
        text = line.split("#")[0].split(";")[0].strip()
        if match := re.fullmatch(r"([\w.-]+)\s*(\[[^\]]*\])?\s*\(?([<>=!~][^)]*)?\)?", text):
            found.append(SimpleNamespace(name=match[1], specifier=(match[3] or "").strip()))
    return found


def check_requirements(
    requirements: Any = "requirements.txt", exclude: Collection[str] = (), install: bool = True, cmds: str = ""
) -> bool:
    """Return whether packages are installed; the missing ones are logged. install, cmds: nothing is ever installed.

    requirements: a text such as "a b>=1.2", a list of these, in which a tuple names alternatives, or a file.
    """
    if isinstance(requirements, Path) or isinstance(requirements, str) and requirements.endswith(".txt"):
        wanted: list[Any] = [f"{item.name}{item.specifier}" for item in parse_requirements(requirements)]
    else:
        wanted = requirements.split() if isinstance(requirements, str) else list(requirements)
    missing = []
    for item in wanted:
        options = item if isinstance(item, (tuple, list)) else (item,)
        if not any(_requirement_name(option) in exclude or _is_met(option) for option in options):
            missing.append(options[0])
    if missing:
        text = " ".join(f"'{name}'" for name in missing)
        LOGGER.warning(
            "%s", f"{colorstr('red', 'bold', 'requirements:')} not installed, install by hand: pip install {text}"
        )
    return not missing


def _requirement_name(text: str) -> str:
    return re.match(r"[\w.-]*", text.rpartition("/")[2].removesuffix(".git"))[0]  # type: ignore[index]


def _is_met(text: str) -> bool:
    name = _requirement_name(text)
    specifier = re.search(r"[<>=!~].*", text.split(";")[0])
    return bool(name) and check_version(name, specifier[0] if specifier else "0")


def check_imgsz(imgsz: Any, stride: Any = 32, min_dim: int = 1, max_dim: int = 2, floor: int = 0) -> int | list[int]:
    """Return a size, a side or [height, width], rounded up to multiples of stride, at least floor; changes are logged.

    min_dim=2: always two sides. max_dim=1: the longer of two sides. Raises TypeError for what is no size, ValueError
    for more than two sides.
    """
    stride = int(torch.as_tensor(stride).max())
    given = literal(imgsz) if isinstance(imgsz, str) else imgsz
    sides = [given] if isinstance(given, int) else list(given) if isinstance(given, (list, tuple)) else []
    if not sides or not all(isinstance(side, int) for side in sides):
        raise TypeError(f"imgsz={imgsz!r} is no size: expected a whole number, or [height, width], as in imgsz=640")
    if len(sides) > 2:
        raise ValueError(f"imgsz={imgsz!r} has {len(sides)} sides, expected one or two")
    if max_dim == 1 and len(sides) == 2:
        LOGGER.warning("imgsz=%s: a single side is needed here; the longer one is used.", imgsz)
        sides = [max(sides)]
    rounded = [max(-(-side // stride) * stride, floor) for side in sides]
    if rounded != sides:
        LOGGER.warning("imgsz=%s is no multiple of stride %s; using %s.", imgsz, stride, rounded)
    if min_dim == 2 and len(rounded) == 1:
        return rounded * 2
    return rounded[0] if len(rounded) == 1 else rounded


def check_suffix(file: Any = "yolov12n.pt", suffix: Any = ".pt", msg: str = "") -> None:
    """Raise AssertionError where a file, or one of a list, has none of the suffixes."""
    suffixes = (suffix,) if isinstance(suffix, str) else tuple(suffix)
    for name in file if isinstance(file, (list, tuple)) else [file]:
        ending = str(name).strip()[str(name).strip().rfind(".") :].lower() if "." in str(name) else ""
        if suffixes and ending not in suffixes:
            raise AssertionError(f"{msg}{name}: the suffix '{ending}' is none of {', '.join(suffixes)}")


def check_file(file: Any, suffix: Any = "", download: bool = True, download_dir: Any = ".", hard: bool = True) -> Any:
    """Return the path of a file as text: as given, or of that name among the YAML files shipped here.

    "" stays "". download: nothing is fetched. Raises FileNotFoundError where there is none; with hard=False it is [].
    """
    name = str(file).strip()
    if suffix and name:
        check_suffix(name, suffix)
    if not name or Path(name).exists() or name.lower().startswith(("rtsp://", "rtmp://", "tcp://")):
        return name
    if "://" in name:
        local = Path(download_dir) / Path(clean_url(name)).name
        if local.exists():
            return str(local)
        if hard:
            raise MissingFileError(f"'{name}' is not fetched: nothing is downloaded here. Fetch it, and give its path.")
        return []
    found = sorted(cfg_dir().rglob(Path(name).name)) if Path(name).parent == Path(".") else []
    if not found and name.endswith((".yaml", ".yml")):
        try:
            found = [find_model(name).path]
        except UserError:
            found = []
    if not found and hard:
        raise MissingFileError(f"'{name}' does not exist, nor is there a file of that name in {cfg_dir()}.")
    return str(found[0]) if found else []


def check_yaml(file: Any, suffix: Any = (".yaml", ".yml"), hard: bool = True) -> Any:
    """Return the path of a YAML file as text; see check_file."""
    return check_file(file, suffix, hard=hard)


def check_model_file_from_stem(model: Any = "yolov12n") -> Any:
    """Return the name of a model's file: without a suffix it is the checkpoint of that name."""
    path = Path(str(model))
    return path.with_suffix(".pt") if path.stem and not path.suffix else model


def check_font(font: str = "Arial.ttf") -> Any:
    """Return the file of a font of the system, by its name; None where there is none: no font is fetched."""
    from ...plots.fonts import FONT_FOLDERS, OTHER_FOLDERS

    if Path(font).exists():
        return Path(font)
    folders = [
        Path(os.path.expanduser(os.path.expandvars(name))) for name in FONT_FOLDERS.get(sys.platform, OTHER_FOLDERS)
    ]
    matches = [path for folder in folders if folder.is_dir() for path in folder.rglob(Path(font).name)]
    return str(matches[0]) if matches else None


def check_amp(model: torch.nn.Module) -> bool:
    """Return whether mixed precision is used for a network: where its weights lie on a GPU."""
    return next(model.parameters()).device.type == "cuda"


def check_imshow(warn: bool = False) -> bool:
    """Return whether there is a display for windows."""
    has_display = not LINUX or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if warn and not has_display:
        LOGGER.warning("There is no display here: pictures are written to files.")
    return has_display


def check_is_path_safe(basedir: Any, path: Any) -> bool:
    """Return whether a path lies in a folder, links followed, and exists."""
    inside = Path(path).resolve()
    return inside.exists() and Path(basedir).resolve() in inside.parents


def check_pip_update_available() -> bool:
    """Return False: no server is asked for newer versions."""
    return False


def is_ascii(s: Any) -> bool:
    """Return whether a text, or an object's text, is ASCII."""
    return str(s).isascii()


def cuda_device_count() -> int:
    """Return the number of GPUs."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cuda_is_available() -> bool:
    """Return whether there is a GPU."""
    return cuda_device_count() > 0


def print_args(args: Mapping[str, Any] | None = None, show_file: bool = True, show_func: bool = False) -> None:
    """Log arguments, by default those of the function that calls this."""
    frame = inspect.currentframe().f_back  # type: ignore[union-attr]
    file, _, function, _, _ = inspect.getframeinfo(frame)  # type: ignore[arg-type]
    if args is None:
        names, _, _, values = inspect.getargvalues(frame)  # type: ignore[arg-type]
        args = {name: values[name] for name in names}
    where = (f"{Path(file).stem}: " if show_file else "") + (f"{function}: " if show_func else "")
    LOGGER.info("%s%s", colorstr(where), ", ".join(f"{key}={value}" for key, value in args.items()))


def _memory() -> float:
    """The machine's memory in GiB; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return 0.0


def check_yolo(verbose: bool = True, device: Any = "") -> None:
    """Log versions and the device, then the number of processors, the memory and the disk. Also `checks()`."""
    select_device(device, newline=False)
    extra = ""
    if verbose:
        total, _, free = shutil.disk_usage("/" if not WINDOWS else "C:\\")
        used = (total - free) / 2**30
        extra = f"({os.cpu_count()} CPUs, {_memory():.1f} GB RAM, {used:.1f}/{total / 2**30:.1f} GB disk)"
    LOGGER.info("Setup complete %s", extra)


checks = check_yolo


def collect_system_info() -> dict[str, Any]:
    """Print the versions of this package and of what it requires, and return facts of the machine."""
    run_checks()
    return {
        "OS": platform.platform(),
        "Python": platform.python_version(),
        "bitfalcon": __version__,
        "torch": torch.__version__,
        "RAM": f"{_memory():.2f} GB",
        "CPU": get_cpu_info(),
        "CPU count": os.cpu_count(),
        "GPU count": cuda_device_count(),
        "CUDA": torch.version.cuda,
        "System": "macOS" if MACOS else platform.system(),
        "ARM64": ARM64,
        "Settings": len(table()),
        "Writable": is_dir_writeable("."),
    }
