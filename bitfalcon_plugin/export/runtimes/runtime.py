"""What every runtime looks like from outside: called with images like a Detector, and its answer is decoded like a Detector's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ...config.errors import UserError
from ...ops.boxes import xywh_from_xyxy
from ..metadata import Metadata

ROW = 6  # numbers of a detection where suppression is inside: x1, y1, x2, y2, score, class
NETWORK_ONLY = (
    "model",
    "head",
    "graph",
    "state_dict",
    "fuse",
    "to",
    "train",
    "named_parameters",
    "half",
    "float",
    "forward",
)


class Runtime:
    """An exported model. `engine.decode(engine(images))` is what it is for a Detector; predict and val take either.

    names, nc, multiple: as of a Detector. imgsz: (H, W) it was exported for; fixed: the same where it takes no other size,
    otherwise None. batch: images of a call where their number is fixed, otherwise None: fewer are filled up, more are cut.
    suppressed: whether suppression is inside. path, format, about: the file, its format, what it says of itself. runtime: name
    and version of what computes.

    Subclasses give `_run`. What only a network has (parameters to train, rows) raises UserError.
    """

    format = ""
    exported = True

    def __init__(
        self, path: Path, about: Metadata, device: torch.device, batch: int | None, fixed: tuple[int, int] | None
    ):
        self.path, self.about, self.device, self.batch, self.fixed = path, about, device, batch, fixed
        self.names, self.nc, self.multiple = dict(about.names), len(about.names), about.multiple
        self.imgsz = fixed or about.imgsz
        self.suppressed = bool(about.args.get("nms"))
        self.runtime = self.format
        self._sound = False  # whether an answer was looked at for numbers that are none

    def __repr__(self) -> str:
        size = f"{self.fixed[0]}x{self.fixed[1]}" if self.fixed else "any size"
        return f"{type(self).__name__}({str(self.path)!r}, {self.nc} classes, {size}, {self.runtime})"

    def __call__(self, images: Tensor) -> Tensor:
        """images (Tensor[B, 3, H, W]): floating point, RGB in [0, 1] -> what `decode` takes. UserError for a size it does not take."""
        self._check(tuple(images.shape))
        images = images.float()
        if self.batch is None:
            return self._answer(images)
        parts = []
        for chunk in images.split(self.batch):
            missing = self.batch - len(chunk)
            full = torch.cat((chunk, chunk.new_zeros(missing, *chunk.shape[1:]))) if missing else chunk
            parts.append(self._answer(full)[: len(chunk)])
        return torch.cat(parts)

    def decode(self, raw: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(B, 4+nc, A) float32 as Detector.decode. Where suppression is inside, the boxes that it left, each with its one class."""
        if not self.suppressed:
            return raw
        scores = raw.new_zeros(len(raw), self.nc, raw.shape[1])
        place = raw[:, :, 5].round().long().clamp(0, self.nc - 1)[:, None]  # (B, 1, n)
        scores.scatter_(1, place, raw[:, :, 4][:, None])
        return torch.cat((xywh_from_xyxy(raw[:, :, :4]).transpose(1, 2), scores), 1)

    def parameters(self) -> Iterator[Tensor]:
        """One empty tensor, of the type and on the device that images are wanted in."""
        yield torch.empty(0, device=self.device)

    def eval(self) -> Runtime:
        """Itself."""
        return self

    def _run(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float32, legal -> the output, on any device."""
        raise NotImplementedError

    def _answer(self, images: Tensor) -> Tensor:
        try:
            found = self._run(images)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a class of its own for each runtime
            raise UserError(
                f"'{self.path}' cannot be run on images {tuple(images.shape)}: {last_line(error)}. Export the checkpoint again with "
                "`bitfalcon export`."
            ) from error
        found = self._whole(found)
        if not self._sound and not found.isfinite().all():
            raise UserError(
                f"'{self.path}' gives numbers that are not finite: it is damaged, or 16 bits do not hold them. Export it again."
            )
        self._sound = True
        return found

    def _whole(self, found: object) -> Tensor:
        if not isinstance(found, Tensor):
            raise UserError(
                f"'{self.path}' gives {type(found).__name__}, not one tensor: export the checkpoint with `bitfalcon export`."
            )
        found = found.float().to(self.device)
        wanted = f"(B, {4 + self.nc}, anchors)" if not self.suppressed else f"(B, boxes, {ROW})"
        if found.ndim != 3 or found.shape[2 if self.suppressed else 1] != (ROW if self.suppressed else 4 + self.nc):
            raise UserError(
                f"'{self.path}' gives {tuple(found.shape)}; expected {wanted} for its {self.nc} classes. It is no detector "
                "whose output this package knows: export the checkpoint with `bitfalcon export`."
            )
        return found

    @property
    def how(self) -> str:
        """What computes, in words."""
        return self.runtime + (
            f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else f" on {self.device}"
        )

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 4 or shape[1] != 3:
            raise UserError(f"images are {shape}; expected (B, 3, H, W)")
        if self.fixed and shape[2:] != self.fixed:
            raise UserError(
                f"'{self.path}' takes images of {self.fixed[0]}x{self.fixed[1]} only, these are {shape[2]}x{shape[3]}. "
                "Export it with dynamic=True, or with another imgsz= ."
            )
        if not self.fixed and any(side % self.multiple for side in shape[2:]):
            raise UserError(
                f"images are {shape[2]}x{shape[3]}; '{self.path}' takes sides that are multiples of {self.multiple}"
            )

    def __getattr__(self, name: str):
        if name in NETWORK_ONLY:
            raise UserError(
                f"'{self.__dict__.get('path')}' is an exported model, without a network to look into or to change ({name}). "
                "Take the checkpoint (.pt) it was made from."
            )
        raise AttributeError(f"{type(self).__name__} has no {name!r}")


def last_line(error: BaseException) -> str:
    """What an error says at its end, where dumps of other languages have their point; its class where it says nothing."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return (lines[-1][:200] if lines else type(error).__name__).rstrip(".")


def unreadable(path: object, kind: str, error: BaseException) -> UserError:
    """What to raise for a file that its runtime does not take."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"'{path}' cannot be read as {kind}: {reason}. It is damaged, or of another program; export it again."
    )
