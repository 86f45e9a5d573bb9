"""torch.export archives (.pt2), run by torch operation by operation.

torch.export.load unpickles, and evaluates texts of the file as formulas; its documentation warns of foreign files. Here
an archive is read as JSON and raw tensors: a list of operations, each of the aten library by its full name, with plain
arguments. Nothing is unpickled, evaluated or compiled; opening takes milliseconds instead of seconds, and the program
runs on any device.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..metadata import read_metadata
from .pt2_program import DTYPES, Program
from .runtime import Runtime, recorded_shape, unreadable

METADATA_RECORD = "extra/config.txt"
MAX_JSON = 200_000_000  # bytes
MAX_PACKING = 20  # how many times its own size an archive may unpack to


class Pt2Runtime(Runtime):
    """A .pt2 file of torch 2.8 or newer. It runs on any device that torch has."""

    format = "pt2"

    def __init__(self, path: Path, device: torch.device, half: bool = False, task: str | None = None):
        try:
            texts, program, weights = _read_archive(path)
        except Exception as error:  # whatever a damaged archive makes of its readers
            raise unreadable(path, "a torch.export archive", error) from error
        metadata = read_metadata(texts if isinstance(texts, dict) else {}, path, task)
        try:
            self._program = Program(program, weights, device)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
            raise unreadable(path, "a torch.export archive", error) from error
        super().__init__(path, metadata, device, *recorded_shape(metadata))
        self.runtime = f"torch {torch.__version__} (torch.export)"

    def _run(self, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return self._program(images.to(self.device).contiguous())


def check_packing(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise ValueError where an archive would unpack to far more than its own size.

    torch packs nothing; other programs pack code to half its size.
    """
    if sum(item.file_size for item in archive.infolist()) > MAX_JSON + MAX_PACKING * path.stat().st_size:
        raise ValueError("it unpacks to more than a detector has")


def _read_archive(path: Path) -> tuple[object, Mapping, dict[str, Tensor]]:
    """The metadata, the program as JSON, and its tensors by the names of its parameters and constants.

    Raises ValueError for an archive that is too large, pickled or of an older torch.
    """
    with zipfile.ZipFile(path) as archive:
        check_packing(archive, path)
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        texts = [name for name in names if name.endswith((".json", ".txt"))]
        if sum(archive.getinfo(names[name]).file_size for name in texts) > MAX_JSON:
            raise ValueError("more text than a detector has")
        if "models/model.json" not in names:
            raise ValueError("no models/model.json in it; archives of torch 2.8 or newer have one")

        def read_json(name: str) -> object:
            return json.loads(archive.read(names[name])) if name in names else {}

        tensors = {}
        for folder, config in (("weights", "model_weights_config"), ("constants", "model_constants_config")):
            for name, entry in read_json(f"data/{folder}/{config}.json").get("config", {}).items():
                if entry["use_pickle"]:
                    raise ValueError(f"{name} is pickled")
                data = archive.read(names[f"data/{folder}/{entry['path_name']}"])
                tensors[name] = _tensor(data, entry["tensor_meta"])
        return read_json(METADATA_RECORD), read_json("models/model.json"), tensors


def _tensor(data: bytes, meta: Mapping) -> Tensor:
    sizes, strides = ([entry["as_int"] for entry in meta[key]] for key in ("sizes", "strides"))
    dtype = DTYPES[meta["dtype"]]
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    # as_strided refuses a tensor that reaches past the data
    return torch.as_strided(flat, sizes, strides, meta["storage_offset"]["as_int"]).clone()
