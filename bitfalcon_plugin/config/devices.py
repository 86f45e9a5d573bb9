"""From what a user types as `device=` to torch devices."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from .errors import WrongValueError


def select_device(device: object) -> torch.device:
    """Return the one device that `device` names.

    '' and None name the first GPU, or the CPU without GPUs; -1 names the GPU with most free memory; other names are
    'cpu', 'mps', 0, '0' and 'cuda:0'. Raises WrongValueError for a device that is missing, and for several devices.
    """
    devices = named_devices(device)
    if len(devices) > 1:
        raise WrongValueError(
            f"device={device!r}: several devices are for training and predict; name one here, for example "
            f"device={devices[0].index}."
        )
    return devices[0]


def select_devices(device: object) -> list[torch.device]:
    """Return the devices of this process: all that `device` names, or in a process that torchrun started only its own.

    A process of torchrun gets the device at position LOCAL_RANK among those that `device` names, or among all GPUs
    where `device` names none; on CPUs all processes share one. Raises WrongValueError as `named_devices`, and where the
    number of devices differs from the number of processes.
    """
    if "LOCAL_RANK" not in os.environ:
        return named_devices(device)
    names = _split_names(device)
    if "-1" in names:
        raise WrongValueError(
            f"device={device!r}: processes of torchrun would all choose the same GPU. Name them, as in device=0,1, or "
            "none."
        )
    every_gpu = names in ([""], ["cuda"]) and _gpu_count() > 0
    devices = [torch.device("cuda", i) for i in range(_gpu_count())] if every_gpu else named_devices(device)
    if devices[0].type != "cuda":
        return devices
    rank, processes = _index_variable("LOCAL_RANK"), _index_variable("LOCAL_WORLD_SIZE")
    is_other_number = not every_gpu and processes not in (None, len(devices))
    if rank is None or rank >= len(devices) or is_other_number:
        raise WrongValueError(
            f"device={device!r} is {len(devices)} of this machine's GPUs, torchrun started {processes or 'other'} "
            f"processes here (LOCAL_RANK={os.environ['LOCAL_RANK']}). Give --nproc-per-node={len(devices)}, or as many "
            "devices."
        )
    return [devices[rank]]


def named_devices(device: object) -> list[torch.device]:
    """Return every device that `device` names, also inside a process of torchrun.

    Several GPUs are named by '0,1', (0, 1), [0, 1] or 'cuda:0,1'; each -1 is the next GPU with most free memory.
    Raises WrongValueError for devices that are missing, named twice or of mixed kinds.
    """
    names = _split_names(device)
    count, has_mps = _gpu_count(), torch.backends.mps.is_available()
    if names in ([""], ["cuda"]):
        if names == ["cuda"] and not count:
            raise WrongValueError("device=cuda: torch sees no GPU here. Use device=cpu.")
        return [torch.device("cuda", 0) if count else torch.device("cpu")]
    available = ["cpu", *map(str, range(count)), *(["mps"] if has_mps else [])]
    valid, problems = [], []
    for name in names:
        if name in available or name == "-1" and count:
            valid.append(name)
        elif name.isdecimal() and str(int(name)) in available:  # 00
            valid.append(str(int(name)))
        else:
            problems.append("there is no GPU to choose" if name == "-1" else f"{name!r} does not exist on this machine")
    if len(valid) > 1 and {"cpu", "mps"} & set(valid):
        problems.append("only GPUs work together")
    problems += [f"{name} is named twice" for name in dict.fromkeys(valid) if name != "-1" and valid.count(name) > 1]
    if "-1" in valid and len(valid) > count:
        problems.append(f"{len(valid)} GPUs are asked for")
    if problems:
        choices = ", ".join(available)
        raise WrongValueError(
            f"device={device!r}: {'; '.join(problems)} (known: {choices}). Give one of these, or no device."
        )
    if valid[0] in ("cpu", "mps"):
        return [torch.device(valid[0])]
    return [torch.device("cuda", index) for index in _choose_idle([int(name) for name in valid], count)]


def device_text(devices: Sequence[torch.device]) -> str:
    """Return devices as `device=` names them: '0,1', 'cpu'. Another process that reads the text chooses the same."""
    return ",".join(str(device.index) if device.type == "cuda" else device.type for device in devices)


def _gpu_count() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _split_names(device: object) -> list[str]:
    """The names in `device`: '0', 'cpu', 'cuda', '-1', ...; [''] where there is none. A comma may follow the last."""
    text = "" if device is None else str(device)
    parts = [str(part) for part in device] if isinstance(device, (list, tuple)) else text.split(",")
    names = [part.strip(" \t'\"()[]").lower() for part in parts]
    return [name.removeprefix("cuda:") for name in names if name not in ("", "none", "cuda:")] or [""]


def _choose_idle(indices: list[int], count: int) -> list[int]:
    """Replace every -1 by the index of the GPU with most free memory, of those not named."""
    if -1 not in indices:
        return indices
    unnamed = set(range(count)) - set(indices)
    by_memory = sorted(unnamed, key=lambda index: (-_free_memory(index), index))
    return [by_memory.pop(0) if index == -1 else index for index in indices]


def _free_memory(index: int) -> int:
    """The free bytes of a GPU; 0 where even the query finds no memory."""
    try:
        return torch.cuda.mem_get_info(index)[0]
    except RuntimeError:
        return 0


def _index_variable(name: str) -> int | None:
    """An environment variable as an index; None where it is unset or no number."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else None
