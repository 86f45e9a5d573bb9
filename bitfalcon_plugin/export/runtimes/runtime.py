"""The interface of every runtime: it is called and decoded as a Detector is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...config.errors import UserError
from ...ops.boxes import xywh_from_xyxy
from ...ops.keypoint_layout import KeypointLayout
from ...tasks import TASKS
from ..input_limits import InputLimits
from ..metadata import Metadata, check_input

INPUT, OUTPUT = "images", "output"  # names of tensors in a file; outputs are numbered: output0, output1
Outputs = Tensor | Mapping[str, Tensor]  # see Runtime.__call__
DETECTION = 6  # first numbers of a detection where suppression is inside: a box, score, class
NETWORK_ONLY = frozenset(
    "model head graph state_dict fuse to train named_parameters half float forward".split()
)  # attributes of a Detector that an exported model cannot have


class Runtime:
    """An exported model that is open. Predict and val take it in the place of a Detector.

    names, nc, multiple, task: as those of a Detector. imgsz: the size (H, W) of the export. fixed: the same where the
    model takes no other size, otherwise None. batch: the images of a call where their number is fixed, otherwise None.
    limits: the sizes that the model takes where it takes several but not all, otherwise None.
    suppressed: whether suppression is inside. path, format: the file and its format. about: its Metadata. runtime: name
    and version of the program that computes.

    A subclass defines `_run`. Attributes that only a network has raise UserError.
    """

    format = ""
    exported = True
    limits: InputLimits | None = None

    def __init__(
        self, path: Path, about: Metadata, device: torch.device, batch: int | None, fixed: tuple[int, int] | None
    ):
        check_input(path, batch or about.batch, fixed or about.imgsz)
        self.path, self.about, self.device, self.batch, self.fixed = path, about, device, batch, fixed
        self.names, self.nc, self.multiple = dict(about.names), len(about.names), about.multiple
        self.task, self.imgsz = about.task or "detect", fixed or about.imgsz
        self.suppressed = bool(about.args.get("nms"))
        self.runtime = self.format
        self._seen_finite = False  # whether an output was found to be finite; only the first one is looked at

    def __repr__(self) -> str:
        size = f"{self.fixed[0]}x{self.fixed[1]}" if self.fixed else "any size"
        size = self.limits.describe() if self.limits else size
        return f"{type(self).__name__}({str(self.path)!r}, {self.nc} classes, {size}, {self.runtime})"

    def __call__(self, images: Tensor) -> Outputs:
        """Run images (B, 3, H, W), floating point RGB in [0, 1]; returns what `decode` takes.

        That is the first output of the file, or where the task has maps (tasks.Task.maps) a mapping with the first
        output as `candidates` and these maps. Where the number of images of a call is fixed or limited, more are
        split; where it is fixed, fewer are filled up with black ones.

        Raises UserError for a size that the model does not take.
        """
        self._check_shape(tuple(images.shape))
        images = images.float()
        outputs = []
        most = self.limits.most[0] if self.limits else len(images)
        for chunk in images.split(self.batch or most):
            missing = (self.batch or len(chunk)) - len(chunk)
            full = torch.cat((chunk, chunk.new_zeros(missing, *chunk.shape[1:]))) if missing else chunk
            outputs.append([output[: len(chunk)] for output in self._checked_run(full)])
        first, *maps = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*outputs))
        return {"candidates": first, **dict(zip(TASKS[self.task].maps, maps))} if maps else first

    def decode(self, raw: Outputs, size: tuple[int, int] | None = None) -> Tensor:
        """Decode as Detector.decode does: (B, 4+nc+k, A) float32. Where suppression is inside, A are the detections."""
        rows = raw["candidates"] if isinstance(raw, Mapping) else raw
        if not self.suppressed:
            return rows
        scores = rows.new_zeros(len(rows), self.nc, rows.shape[1])  # (B, nc, n)
        classes = rows[:, :, 5].round().long().clamp(0, self.nc - 1)[:, None]  # (B, 1, n)
        scores.scatter_(1, classes, rows[:, :, 4][:, None])
        boxes, further = rows[:, :, :4], rows[:, :, DETECTION:].transpose(1, 2)
        boxes = boxes if TASKS[self.task].oriented else xywh_from_xyxy(boxes)
        return torch.cat((boxes.transpose(1, 2), scores, further), 1)

    def parameters(self) -> Iterator[Tensor]:
        """Yield one empty tensor of the type and on the device that images should have."""
        yield torch.empty(0, device=self.device)

    def eval(self) -> Runtime:
        """Return the runtime itself, as a Detector does."""
        return self

    def _run(self, images: Tensor) -> Sequence[Tensor]:
        """Run images (B, 3, H, W) float32 of a size that the model takes; the outputs may be on any device."""
        raise NotImplementedError

    def example(self) -> Tensor:
        """Return black images (B, 3, H, W) of the size of the export."""
        height, width = (-(-side // self.multiple) * self.multiple for side in self.imgsz)
        return torch.zeros(self.batch or 1, 3, *(self.fixed or (height, width)))

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """Run images of a size that the model takes; the outputs are those of the file, unchecked.

        Raises UserError for whatever the runtime raises, but for a lack of GPU memory.
        """
        try:
            return self._run(images)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # each runtime has its own classes of errors
            raise UserError(
                f"'{self.path}' cannot be run on images {tuple(images.shape)}: {last_line(error)}. Export the "
                "checkpoint again with `bitfalcon export`."
            ) from error

    def _checked_run(self, images: Tensor) -> list[Tensor]:
        """Run the images and check the outputs; returns those of the task as float32 on the device of the runtime."""
        outputs = self._with_known_shapes(self.run(images), images.shape[2:])
        if not self._seen_finite and not all(output.isfinite().all() for output in outputs):
            raise UserError(
                f"'{self.path}' gives numbers that are not finite: it is damaged, or 16 bits do not hold them. Export "
                "it again."
            )
        self._seen_finite = True
        return outputs

    def _with_known_shapes(self, outputs: object, size: Sequence[int]) -> list[Tensor]:
        task = TASKS[self.task]
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        outputs, others = outputs[: 1 + len(task.maps)], outputs[1 + len(task.maps) :]
        if not all(isinstance(output, Tensor) for output in outputs):
            kinds = ", ".join(type(output).__name__ for output in outputs)
            raise UserError(f"'{self.path}' gives {kinds}, not tensors: export the checkpoint with `bitfalcon export`.")
        outputs = [output.float().to(self.device) for output in outputs]
        first, *maps = outputs
        if len(maps) == len(task.maps) and all(_is_map(each, size) for each in maps):
            further = len(task.further(dict(zip(task.maps, maps)), self.keypoints))
            if task.objects:
                rows = 4 + self.nc + further, "anchors"
                sides = ("B", "boxes", DETECTION + further) if self.suppressed else ("B", *rows)
            else:
                sides = "B", self.nc
            fits = (isinstance(side, str) or side == length for side, length in zip(sides, first.shape))
            if first.ndim == len(sides) and all(fits):
                return outputs
            expected = f"({', '.join(map(str, sides))})"
        else:
            names = ", ".join(task.maps)
            expected = (
                f"{1 + len(task.maps)} outputs: candidates, and maps whose sides divide those of the image: {names}"
            )
        shapes = " and ".join(str(tuple(output.shape)) for output in (*outputs, *others))
        raise UserError(
            f"'{self.path}' gives {shapes}; expected {expected} for the {self.nc} classes of a model for "
            f"task={self.task}. {self._repair}"
        )

    @property
    def keypoints(self) -> KeypointLayout | None:
        """What is known of the keypoints of every object, as of a Detector; None for a model without keypoints."""
        return self.about.keypoints

    @property
    def _repair(self) -> str:
        if self.about.task is None:
            others = ", ".join(name for name in TASKS if name != self.task)
            return f"The file does not say its task: give task=, one of {others}, where it is a model for another one."
        return "Its outputs are not known here: export the checkpoint with `bitfalcon export`."

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
        if self.limits and not self.limits.take(shape[2:]):
            raise UserError(
                f"images are {shape[2]}x{shape[3]}; '{self.path}' takes {self.limits.describe()}. Give another imgsz=, "
                f"or export again with dynamic=True imgsz={max(shape[2:])} ."
            )

    def __getattr__(self, name: str):
        if name in NETWORK_ONLY:
            raise UserError(
                f"'{self.__dict__.get('path')}' is an exported model, without a network to look into or to change "
                f"({name}). Take the checkpoint (.pt) it was made from."
            )
        raise AttributeError(f"{type(self).__name__} has no {name!r}")


def _is_map(output: Tensor, size: Sequence[int]) -> bool:
    """Whether an output (B, channels, h, w) has sides that divide those of the image, (H, W)."""
    return output.ndim == 4 and all(side and not outer % side for side, outer in zip(output.shape[2:], size))


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
