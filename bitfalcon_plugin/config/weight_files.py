"""Which names are those of weights, and where a file of weights that is given by its bare name is looked for."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import UserError
from .files import cache_dir
from .user_settings import folder

PICKLED = (".pt", ".pth")
SAFETENSORS = ".safetensors"
SUFFIXES = (*PICKLED, SAFETENSORS)
# A folder as the Hub has it holds a model in these files, and a page about it.
HUB_WEIGHTS, HUB_CONFIG, HUB_CARD = "model.safetensors", "config.json", "README.md"
EXPECTED = "a path that ends in .pt or .safetensors, or a folder with config.json and model.safetensors"
VARIABLE = "BITFALCON_WEIGHTS"


def names_weights(path: object) -> bool:
    """Whether `path` names weights: by its suffix, or as a folder that holds model.safetensors (see `find_weights`)."""
    if not isinstance(path, (str, Path)) or not str(path):
        return False
    suffix = Path(path).suffix.lower()
    return suffix in SUFFIXES or suffix not in (".yaml", ".yml") and is_hub_folder(find_weights(path))


def is_hub_folder(path: str | Path) -> bool:
    """Whether `path` is a folder that holds model.safetensors."""
    return os.path.isfile(os.path.join(path, HUB_WEIGHTS))  # False for a name that no file can have


def file_of_weights(path: str | Path) -> Path:
    """Return the file of weights that `path` is, or that lies in the folder `path`."""
    return Path(path) / HUB_WEIGHTS if is_hub_folder(path) else Path(path)


def names_folder(out: str | Path) -> bool:
    """Whether weights that are written to `out` go into a folder: it ends with a slash, or is a folder."""
    return str(out).endswith(("/", os.sep)) or os.path.isdir(out)


def weight_folders() -> list[Path]:
    """The folders in which weights are looked for by their bare name, after the current one.

    Those of $BITFALCON_WEIGHTS (several with the separator of PATH), ./weights, weights_dir of the user's settings, and
    weights/ in the cache. They may not exist.
    """
    given = [Path(text).expanduser() for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text.strip()]
    chosen = folder("weights_dir")
    every = (*given, Path("weights"), *((chosen,) if chosen else ()), cache_dir() / "weights")
    return list(dict.fromkeys(every))


def find_weights(path: str | Path) -> Path:
    """Return `path`, or for a bare name that does not exist here the path of that name in `weight_folders`."""
    path = Path(path)
    if path.name != str(path) or os.path.exists(path):
        return path
    return next((kept for name in weight_folders() if _exists(kept := name / path)), path)


def model_file(model: str | Path) -> str:
    """Return the path `model`, or where `model` has no suffix the checkpoint of that name, if there is one.

    Checkpoints given by a bare name are looked for in the folders of `weight_folders`, too. Raises UserError for what
    is no path.
    """
    if not isinstance(model, (str, Path)) or not str(model).strip():
        raise UserError(
            f"YOLO({model!r}): expected the path of a graph (.yaml), weights (.pt, .safetensors) or an exported model."
        )
    path = Path(model)
    if path.suffix or not path.name or path.is_dir():
        return str(model)
    named = (find_weights(path.with_name(path.name + suffix)) for suffix in SUFFIXES)
    return str(next((weights for weights in named if weights.is_file()), model))


def searched() -> str:
    """Say where a bare name is looked for, for a message."""
    variable = "" if os.environ.get(VARIABLE) else f"; ${VARIABLE} may name more folders"
    return f"'{Path.cwd()}', {', '.join(repr(str(name)) for name in weight_folders())}{variable}"


def _exists(path: Path) -> bool:
    return os.path.isfile(path) or is_hub_folder(path)
