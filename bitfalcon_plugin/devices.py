"""From what a user types as `device=` to a torch device."""

from __future__ import annotations

import torch

from .errors import UserError


def select_device(device: object) -> torch.device:
    """'' or None: the first GPU, else the CPU; 'cpu', 'mps', 0, '0', 'cuda:0'. UserError for one that is not there."""
    text = str(device if device is not None else "").strip().lower().removeprefix("cuda").lstrip(":")
    if text in ("", "none"):
        found = "cuda:0" if torch.cuda.is_available() else "cpu"
        if str(device or "").lower().startswith("cuda") and found == "cpu":
            raise UserError("device=cuda: torch sees no GPU here. Use device=cpu.")
        return torch.device(found)
    if text == "cpu" or (text == "mps" and torch.backends.mps.is_available()):
        return torch.device(text)
    count = torch.cuda.device_count()
    if text.isdigit() and int(text) < count:
        return torch.device("cuda", int(text))
    known = ", ".join(["cpu", *(str(i) for i in range(count)), *(["mps"] if torch.backends.mps.is_available() else [])])
    several = " Several devices at once come with a later version." if isinstance(device, tuple) or "," in str(device) else ""
    raise UserError(f"device={device!r} is not here (known: {known}).{several}")
