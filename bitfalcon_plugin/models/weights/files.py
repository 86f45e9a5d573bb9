"""The files that hold weights, read and written: those of torch.save, safetensors, and folders as the Hub has them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...compat.allowed import cut_line
from ...compat.reader import LoadedFile, load_file, uncollected
from ...config.errors import UserError
from ...config.files import atomic
from ...config.notes import print_note
from ...config.weight_files import HUB_CONFIG, HUB_WEIGHTS, SAFETENSORS, is_hub_folder
from .packed_layout import PIECES
from .safetensors_file import AGAIN, MAX_JSON, read_safetensors, strict_json, write_safetensors

OWN = "bitfalcon"  # the text of a header, or entry of a config.json, that holds a checkpoint without its tensors


@uncollected()
def load_weights(path: str | Path) -> LoadedFile:
    """Load a file of weights, or a folder that holds model.safetensors; ours or of another maker.

    Raises MissingFileError, or UserError with one line: what the file is and what to do.
    """
    path = Path(path)
    if is_hub_folder(path):
        weights, config = path / HUB_WEIGHTS, path / HUB_CONFIG
        return _loaded(path, weights, _document_of(config) if config.is_file() else None)
    return _loaded(path, path) if path.suffix.lower() == SAFETENSORS and path.is_file() else load_file(path)


def write_tensors(path: str | Path, content: Mapping[str, object]) -> None:
    """Write `content` with torch.save, whole or not at all. Raises OSError where the disk is full or forbids it."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # of torch's writer, when it closes what could not be written
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def write_content(path: str | Path, content: Mapping[str, object]) -> None:
    """Write the content of a checkpoint in our format: as safetensors where the name says so, else by torch.save.

    Raises OSError as `write_tensors`, and UserError as `write_safetensors` and `document_text`.
    """
    if Path(path).suffix.lower() != SAFETENSORS:
        write_tensors(path, content)
        return
    if content.get("training") is not None:
        print_note(f"'{path}' holds weights alone: what a resumed run needs stays in the .pt file.")
    packed = "state" not in content
    tensors = {piece: content[piece] for piece in PIECES} if packed else content["state"]
    write_safetensors(path, tensors, {"format": "pt", OWN: document_text(content)})


def write_state(path: str | Path, state: Mapping[str, Tensor], licence: str | None) -> None:
    """Write a plain state dict with the licence of its weights: as safetensors where the name says so."""
    if Path(path).suffix.lower() == SAFETENSORS:
        write_safetensors(path, state, {"format": "pt", **({"license": licence} if licence else {})})
        return
    content = OrderedDict(state)
    if licence:
        content._metadata = {"": {"license": licence}}
    write_tensors(path, content)


def document_text(content: Mapping[str, object]) -> str:
    """Return a checkpoint's content without its tensors and training state as one line of JSON.

    Raises UserError for numbers that JSON has not, and for a document that nobody would read again.
    """
    left_out = ("state", "training", *PIECES)
    plain = {key: value for key, value in content.items() if key not in left_out}
    try:
        text = json.dumps(plain, allow_nan=False)
        strict_json(text)
    except ValueError as error:
        raise UserError(
            f"{content['graph']['name']} cannot be written as safetensors: {cut_line(str(error))}. Write a .pt file."
        ) from error
    return text


def _loaded(path: Path, weights: Path, config: dict[str, object] | None = None) -> LoadedFile:
    tensors, texts = read_safetensors(weights)
    size = weights.stat().st_size
    own = _document(texts[OWN], weights) if OWN in texts else None
    if own is not None and config is not None and own != config:
        print_note(f"'{path / HUB_CONFIG}' says other things than {HUB_WEIGHTS} itself, which is followed.")
    document = config if own is None else own
    if document is not None:
        is_packed = set(tensors) == set(PIECES)
        return LoadedFile(
            path, {**document, **(tensors if is_packed else {"state": tensors, "training": None})}, (), size
        )
    state = OrderedDict(tensors)
    if licence := texts.get("license"):
        state._metadata = {"": {"license": licence}}
    return LoadedFile(path, state, (), size)


def _document_of(config: Path) -> dict[str, object] | None:
    """The document of a checkpoint in a config.json; None in that of another maker."""
    try:
        with open(config, "rb") as file:
            content = strict_json(file.read(MAX_JSON + 1))
    except OSError as error:
        raise UserError(f"'{config}' cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"'{config}' is damaged: {cut_line(str(error), 200)}. {AGAIN}") from error
    own = content.get(OWN)
    return _with_numbers(own) if isinstance(own, dict) else None


def _document(text: str, path: Path) -> dict[str, object]:
    try:
        return _with_numbers(strict_json(text))
    except ValueError as error:
        raise UserError(
            f"'{path}' is a damaged checkpoint of bitfalcon: {cut_line(str(error), 200)}. {AGAIN}"
        ) from error


def _with_numbers(document: dict[str, object]) -> dict[str, object]:
    """Return a document whose graph has whole numbers as keys again, which JSON makes texts of."""
    return {**document, "graph": _numbered(document.get("graph"))}


def _numbered(value: object) -> object:
    if isinstance(value, dict):
        return {_key(key): _numbered(item) for key, item in value.items()}
    return [_numbered(item) for item in value] if isinstance(value, list) else value


def _key(text: str) -> str | int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 and str(int(text)) == text else text
