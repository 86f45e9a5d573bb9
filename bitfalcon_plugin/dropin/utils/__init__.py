"""Constants and small functions of `utils`. Facts: spec/dropin-helpers.md section 10."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tqdm import tqdm

from ...config.files import cfg_dir
from ...config.printable import coloured
from ..defaults import DEFAULT_CFG_DICT, DEFAULT_CFG_KEYS, DEFAULT_CFG_PATH
from .guards import LOGGER, Retry, ThreadingLocked, TryExcept, plt_settings, threaded
from .namespace import IterableSimpleNamespace, SimpleClass
from .settings_map import SETTINGS, SettingsManager
from .texts import colorstr, emojis, remove_colorstr
from .yaml_texts import YAML, yaml_load, yaml_print, yaml_save

__all__ = [
    "ASSETS",
    "DEFAULT_CFG",
    "DEFAULT_CFG_DICT",
    "DEFAULT_CFG_KEYS",
    "DEFAULT_CFG_PATH",
    "LOGGER",
    "ROOT",
    "TQDM",
    "YAML",
    "SETTINGS",
    "IterableSimpleNamespace",
    "Retry",
    "SettingsManager",
    "SimpleClass",
    "SimpleNamespace",
    "ThreadingLocked",
    "TryExcept",
    "colorstr",
    "deprecation_warn",
    "emojis",
    "plt_settings",
    "remove_colorstr",
    "set_logging",
    "threaded",
    "yaml_load",
    "yaml_print",
    "yaml_save",
]

LOGGING_NAME = "ultralytics"
ARGV = sys.argv or ["", ""]
FILE = Path(__file__).resolve()
ROOT = FILE.parents[2]  # the folder of this package
ASSETS = ROOT / "assets"  # no sample pictures are shipped
ASSETS_URL = ""
CFG_DIR = cfg_dir()
DEFAULT_CFG = IterableSimpleNamespace(**DEFAULT_CFG_DICT)
SETTINGS_FILE = SETTINGS.file
USER_CONFIG_DIR = SETTINGS_FILE.parent
# As they are at the import: a change of the settings does not move these.
DATASETS_DIR, WEIGHTS_DIR, RUNS_DIR = (Path(SETTINGS[f"{name}_dir"]) for name in ("datasets", "weights", "runs"))
NUM_THREADS = min(8, max(1, (os.cpu_count() or 2) - 1))
RANK = int(os.environ.get("RANK", -1))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", -1))
VERBOSE = os.environ.get("YOLO_VERBOSE", "true").lower() == "true"
AUTOINSTALL = False  # nothing is installed
TQDM_BAR_FORMAT = "{l_bar}{bar:10}{r_bar}" if VERBOSE else None
MACOS, LINUX, WINDOWS = (platform.system() == name for name in ("Darwin", "Linux", "Windows"))
ARM64 = platform.machine() in ("arm64", "aarch64")
PYTHON_VERSION = platform.python_version()
TORCH_VERSION = str(torch.__version__)
try:
    TORCHVISION_VERSION = importlib.metadata.version("torchvision")
except importlib.metadata.PackageNotFoundError:
    TORCHVISION_VERSION = ""
IS_COLAB = "COLAB_RELEASE_TAG" in os.environ
IS_KAGGLE = os.environ.get("PWD") == "/kaggle/working" and "KAGGLE_URL_BASE" in os.environ
IS_JUPYTER = "ipykernel" in sys.modules
IS_PIP_PACKAGE = "site-packages" in FILE.parts
IS_GIT_DIR = False
IS_DOCKER = Path("/.dockerenv").exists()
IS_JETSON = IS_RASPBERRYPI = False
ONLINE = False  # nothing is fetched
HELP_MSG = "`bitfalcon help` lists the verbs, `bitfalcon cfg` the settings."


class TQDM(tqdm):
    """tqdm's progress bar, in the width that people know; hidden with YOLO_VERBOSE=false."""

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("bar_format", TQDM_BAR_FORMAT)
        kwargs["disable"] = not VERBOSE or kwargs.get("disable", False)
        super().__init__(*args, **kwargs)


def set_logging(name: str = LOGGING_NAME, verbose: bool = True) -> logging.Logger:
    """Return the logger of a name, whose one handler writes bare messages to stdout; not verbose: errors alone."""
    logger = logging.getLogger(name)
    level = logging.INFO if verbose and RANK in (-1, 0) else logging.ERROR
    handler = _Stdout()
    handler.setFormatter(_Printable("%(message)s"))
    handler.setLevel(level)
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
    return logger


class _Printable(logging.Formatter):
    """Gives messages that a terminal can be shown: names in them are not obeyed."""

    def format(self, record: logging.LogRecord) -> str:
        return coloured(super().format(record))


class _Stdout(logging.StreamHandler):
    """Writes to what sys.stdout is at that moment, so that a script may redirect it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:  # type: ignore[override]
        return sys.stdout


set_logging(LOGGING_NAME, VERBOSE)


def deprecation_warn(arg: str, new_arg: str | None = None) -> None:
    """Log that a name is old, and its new name where there is one."""
    LOGGER.warning("'%s' is an old name%s", arg, f" of '{new_arg}'." if new_arg else ".")


def is_online() -> bool:
    """Return False: nothing is fetched here."""
    return ONLINE


def is_colab() -> bool:
    """Return whether this is a Colab notebook."""
    return IS_COLAB


def is_kaggle() -> bool:
    """Return whether this is a Kaggle notebook."""
    return IS_KAGGLE


def is_jupyter() -> bool:
    """Return whether this is a Jupyter notebook."""
    return IS_JUPYTER


def is_docker() -> bool:
    """Return whether this is a Docker container."""
    return IS_DOCKER


def is_ubuntu() -> bool:
    """Return whether this is Ubuntu."""
    release = Path("/etc/os-release")
    return release.is_file() and bool(re.search(r"^ID=ubuntu$", release.read_text(errors="ignore"), re.M))


def is_pip_package(filepath: str = __name__) -> bool:
    """Return whether this package is installed in site-packages."""
    return IS_PIP_PACKAGE


def is_github_action_running() -> bool:
    """Return whether this is a GitHub action."""
    return "GITHUB_ACTIONS" in os.environ and "GITHUB_WORKFLOW" in os.environ


def is_pytest_running() -> bool:
    """Return whether this is a test of pytest."""
    return "PYTEST_CURRENT_TEST" in os.environ or "pytest" in sys.modules


def is_dir_writeable(dir_path: str | Path) -> bool:
    """Return whether files can be written into a folder."""
    return os.access(str(dir_path), os.W_OK)


def clean_url(url: str) -> str:
    """Return an address without its query and without %2F in the place of slashes."""
    text = Path(url).as_posix().replace(":/", "://").replace("%2F", "/")
    return text.partition("?")[0]


def url2file(url: str) -> str:
    """Return the name of the file that an address ends with: url2file("https://x/y.txt?auth") is "y.txt"."""
    return Path(clean_url(url)).name


def get_default_args(func: Any) -> dict[str, Any]:
    """Return the defaults of a function's parameters by name."""
    import inspect

    parameters = inspect.signature(func).parameters.values()
    return {item.name: item.default for item in parameters if item.default is not item.empty}


def get_user_config_dir(sub_dir: str = "bitfalcon") -> Path:
    """Return the folder of the user's settings; it may not exist."""
    return SETTINGS.file.parent
