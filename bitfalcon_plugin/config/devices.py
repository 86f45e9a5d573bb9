"""From what a user types as `device=` to torch devices."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from .errors import UserError


def select_device(device: object) -> torch.device:
    """'' or None: the first GPU, else the CPU; 'cpu', 'mps', 0, '0', 'cuda:0'; -1: the GPU with most free memory.

    Raises UserError for one that is not there, and for several.
    """
    found = _named(device)
    if len(found) > 1:
        raise UserError(
            f"device={device!r}: several devices are for training and predict; name one here, for example device={found[0].index}."
        )
    return found[0]


def select_devices(device: object) -> list[torch.device]:
    """The same, and several GPUs: '0,1', (0, 1), [0, 1], 'cuda:0,1'; each -1 is the next GPU with most free memory.

    In a process that torchrun started: the one device of this process, its LOCAL_RANK-th among those named, or among all GPUs
    where none is named. Raises UserError for devices that are not there, named twice, of mixed kinds, or of another number than
    torchrun's processes.
    """
    if "LOCAL_RANK" not in os.environ:
        return _named(device)
    local, processes = (_number(name) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if "-1" in map(str.strip, _items(device)):
        raise UserError(
            f"device={device!r}: processes of torchrun would all choose the same GPU. Name them, as in device=0,1, or none."
        )
    free = _items(device) in ([""], ["cuda"])  # every GPU of this machine is meant
    found = [torch.device("cuda", i) for i in range(_gpus())] if free else []
    found = found or _named(device)
    if found[0].type != "cuda":
        return found  # processes share a CPU
    if local is None or local >= len(found) or not free and processes not in (None, len(found)):
        raise UserError(
            f"device={device!r} is {len(found)} of this machine's GPUs, torchrun started {processes or 'other'} processes "
            f"here (LOCAL_RANK={os.environ['LOCAL_RANK']}). Give --nproc-per-node={len(found)}, or as many devices."
        )
    return [found[local]]


def every_device(device: object) -> list[torch.device]:
    """The devices among which predict shares out its batches: as `select_devices`, whatever torchrun says of processes."""
    return _named(device)


def spelled(devices: Sequence[torch.device]) -> str:
    """Devices as `device=` names them: '0,1', 'cpu'. Another process that reads it chooses the same."""
    return ",".join(str(device.index) if device.type == "cuda" else device.type for device in devices)


def _named(device: object) -> list[torch.device]:
    items = _items(device)
    count, mps = _gpus(), torch.backends.mps.is_available()
    known = ", ".join(["cpu", *map(str, range(count)), *(["mps"] if mps else [])])
    if items in ([""], ["cuda"]):
        if items == ["cuda"] and not count:
            raise UserError("device=cuda: torch sees no GPU here. Use device=cpu.")
        return [torch.device("cuda", 0) if count else torch.device("cpu")]
    problems, found = [], []
    for item in items:
        if item in ("cpu", "mps") and (item == "cpu" or mps):
            found.append(item)
        elif item == "-1" and count:
            found.append(-1)
        elif item.isdecimal() and int(item) < count:
            found.append(int(item))
        else:
            problems.append("there is no GPU to choose" if item == "-1" else f"{item!r} is not here")
    if len(found) > 1 and not all(isinstance(item, int) for item in found):
        problems.append("only GPUs work together")
    problems += [f"{item} is named twice" for item in dict.fromkeys(found) if item != -1 and found.count(item) > 1]
    if found.count(-1) and len(found) > count:
        problems.append(f"{len(found)} GPUs are asked for")
    if problems:
        raise UserError(f"device={device!r}: {'; '.join(problems)} (known: {known}). Give one of these, or no device.")
    return [
        torch.device(item) if isinstance(item, str) else torch.device("cuda", item)
        for item in _idle_filled(found, count)
    ]


def _gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _items(device: object) -> list[str]:
    # '0', 'cpu', 'cuda', '' or '-1' each; a comma at the end of several is no mistake
    words = (
        [str(item) for item in device]
        if isinstance(device, (list, tuple))
        else str("" if device is None else device).split(",")
    )
    words = [word.strip(" \t'\"()[]").lower() for word in words]
    words = ["" if word == "none" else word.removeprefix("cuda:") for word in words]
    return [word for word in words if word] or [""]


def _idle_filled(found: list, count: int) -> list:
    """Every -1 replaced by the index of the GPU, of those not named, that has most free memory."""
    if -1 not in found:
        return found
    ranked = sorted(set(range(count)) - set(found), key=lambda index: (-_free_memory(index), index))
    return [ranked.pop(0) if item == -1 else item for item in found]


def _free_memory(index: int) -> int:
    """Bytes; 0 for a GPU without room for as much as the question."""
    try:
        return torch.cuda.mem_get_info(index)[0]
    except RuntimeError:
        return 0


def _number(name: str) -> int | None:
    """An environment variable as an index; None where it is unset or something else."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else None
