"""Images read and written by any path, and torch's load and save. Written from spec/dropin-helpers.md section 10."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from ...config.errors import UserError
from ...plots.drawing import picture_of
from ...predict.pictures import show_picture, write_picture

IMREAD_UNCHANGED, IMREAD_GRAYSCALE, IMREAD_COLOR = -1, 0, 1  # OpenCV's numbers


def imread(filename: str | Path, flags: int = IMREAD_COLOR) -> np.ndarray | None:
    """Return an image (H, W, 3) BGR uint8, with flags=0 grey (H, W, 1); None where it cannot be read."""
    try:
        with Image.open(filename) as file:
            picture = ImageOps.exif_transpose(file)
            if flags == IMREAD_GRAYSCALE:
                return np.array(picture.convert("L"))[..., None]
            return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[..., ::-1])
    except OSError:
        return None


def imwrite(filename: str | Path, img: np.ndarray, params: Any = None) -> bool:
    """Write an image (H, W, 3) BGR or (H, W) grey; return whether that worked."""
    try:
        write_picture(picture_of(img), Path(filename))
    except (OSError, ValueError, UserError):  # as OpenCV, no exception
        return False
    return True


def imshow(winname: str, mat: np.ndarray) -> None:
    """Show an image (H, W, 3) BGR; without a display it is written to a file, and a note says where."""
    show_picture(picture_of(mat), Path(f"{winname}.jpg"))


def torch_load(*args: Any, **kwargs: Any) -> Any:
    """Return the content of a file of tensors and plain values, as torch.load with its safe default."""
    kwargs.pop("weights_only", None)
    return torch.load(*args, weights_only=True, **kwargs)


def torch_save(*args: Any, **kwargs: Any) -> None:
    """Write an object, as torch.save."""
    torch.save(*args, **kwargs)
