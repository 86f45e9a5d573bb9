"""The interface of every runtime: it is called and decoded as a Detector is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...config.errors import UserError
from ...ops.boxes import xywh_from_xyxy
from ..metadata import Metadata

DETECTION = 6  # numbers of a detection where suppression is inside: x1, y1, x2, y2, score, class
NETWORK_ONLY = frozenset(
    "model head graph state_dict fuse to train named_parameters half float forward".split()
)  # attributes of a Detector that an exported model cannot have


class Runtime:
    """An exported model that is open. Predict and val take it in the place of a Detector.

    names, nc, multiple: as those of a Detector. imgsz: the size (H, W) of the export. fixed: the same where the model
    takes no other size, otherwise None. batch: the images of a call where their number is fixed, otherwise None.
    suppressed: whether suppression is inside. path, format: the file and its format. about: its Metadata. runtime: name
    and version of the program that computes.

    A subclass defines `_run`. Attributes that only a network has raise UserError.
    """

    format = ""
    exported, task = True, "detect"

    def __init__(
        self, path: Path, about: Metadata, device: torch.device, batch: int | None, fixed: tuple[int, int] | None
    ):
        self.path, self.about, self.device, self.batch, self.fixed = path, about, device, batch, fixed
        self.names, self.nc, self.multiple = dict(about.names), len(about.names), about.multiple
        self.imgsz = fixed or about.imgsz
        self.suppressed = bool(about.args.get("nms"))
        self.runtime = self.format
        self._seen_finite = False  # whether an output was found to be finite; only the first one is looked at

    def __repr__(self) -> str:
        size = f"{self.fixed[0]}x{self.fixed[1]}" if self.fixed else "any size"
        return f"{type(self).__name__}({str(self.path)!r}, {self.nc} classes, {size}, {self.runtime})"

    def __call__(self, images: Tensor) -> Tensor:
        """Run images (B, 3, H, W), floating point RGB in [0, 1]; returns what `decode` takes.

        Where the number of images of a call is fixed, more are split and fewer are filled up with black ones.

        Raises UserError for a size that the model does not take.
        """
        self._check_shape(tuple(images.shape))
        images = images.float()
        if self.batch is None:
            return self._checked_run(images)
        outputs = []
        for chunk in images.split(self.batch):
            missing = self.batch - len(chunk)
            full = torch.cat((chunk, chunk.new_zeros(missing, *chunk.shape[1:]))) if missing else chunk
            outputs.append(self._checked_run(full)[: len(chunk)])
        return torch.cat(outputs)

    def decode(self, raw: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Decode as Detector.decode does: (B, 4+nc, A) float32. Where suppression is inside, A are the detections."""
        if not self.suppressed:
            return raw
        scores = raw.new_zeros(len(raw), self.nc, raw.shape[1])  # (B, nc, n)
        classes = raw[:, :, 5].round().long().clamp(0, self.nc - 1)[:, None]  # (B, 1, n)
        scores.scatter_(1, classes, raw[:, :, 4][:, None])
        return torch.cat((xywh_from_xyxy(raw[:, :, :4]).transpose(1, 2), scores), 1)

    def parameters(self) -> Iterator[Tensor]:
        """Yield one empty tensor of the type and on the device that images should have."""
        yield torch.empty(0, device=self.device)

    def eval(self) -> Runtime:
        """Return the runtime itself, as a Detector does."""
        return self

    def _run(self, images: Tensor) -> Tensor:
        """Run images (B, 3, H, W) float32 of a size that the model takes; the output may be on any device."""
        raise NotImplementedError

    def _checked_run(self, images: Tensor) -> Tensor:
        """Run the images and check the output; returns it as float32 on the device of the runtime."""
        try:
            output = self._run(images)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # each runtime has its own classes of errors
            raise UserError(
                f"'{self.path}' cannot be run on images {tuple(images.shape)}: {last_line(error)}. Export the "
                "checkpoint again with `bitfalcon export`."
            ) from error
        output = self._with_known_shape(output)
        if not self._seen_finite and not output.isfinite().all():
            raise UserError(
                f"'{self.path}' gives numbers that are not finite: it is damaged, or 16 bits do not hold them. Export "
                "it again."
            )
        self._seen_finite = True
        return output

    def _with_known_shape(self, output: object) -> Tensor:
        if not isinstance(output, Tensor):
            raise UserError(
                f"'{self.path}' gives {type(output).__name__}, not one tensor: export the checkpoint with "
                "`bitfalcon export`."
            )
        output = output.float().to(self.device)
        dimension, length = (2, DETECTION) if self.suppressed else (1, 4 + self.nc)
        if output.ndim != 3 or output.shape[dimension] != length:
            expected = f"(B, boxes, {DETECTION})" if self.suppressed else f"(B, {length}, anchors)"
            raise UserError(
                f"'{self.path}' gives {tuple(output.shape)}; expected {expected} for its {self.nc} classes. It is no "
                "detector whose output this package knows: export the checkpoint with `bitfalcon export`."
            )
        return output

    @property
    def how(self) -> str:
        """The program that computes, with its threads or its device, as text."""
        if self.device.type == "cpu":
            return f"{self.runtime}, {torch.get_num_threads()} threads"
        return f"{self.runtime} on {self.device}"

    def _check_shape(self, shape: tuple[int, ...]) -> None:
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
                f"'{self.__dict__.get('path')}' is an exported model, without a network to look into or to change "
                f"({name}). Take the checkpoint (.pt) it was made from."
            )
        raise AttributeError(f"{type(self).__name__} has no {name!r}")


def fixed_shape(sides: Sequence[int | None]) -> tuple[int | None, tuple[int, int] | None]:
    """The batch and the size (H, W) that an input (B, 3, H, W) is fixed to, None where a side is open (None)."""
    batch, _, height, width = sides
    return batch, (height, width) if height and width else None


def recorded_shape(metadata: Metadata) -> tuple[int | None, tuple[int, int] | None]:
    """The batch and the size (H, W) that the metadata say, None each for a dynamic export."""
    return (None, None) if metadata.args.get("dynamic") else (metadata.batch, metadata.imgsz)


def last_line(error: BaseException) -> str:
    """The last line of an error's text, where dumps of other languages have their point, or the error's class."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return (lines[-1][:200] if lines else type(error).__name__).rstrip(".")


def unreadable(path: object, kind: str, error: BaseException) -> UserError:
    """The error to raise for a file that its runtime cannot read. kind: what it should have been, as text."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"'{path}' cannot be read as {kind}: {reason}. It is damaged, or of another program; export it again."
    )
