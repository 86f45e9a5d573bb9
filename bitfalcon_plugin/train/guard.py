"""Steps whose loss or gradient is not finite: left out, with the images named; the third in a row ends the attempt.

The check takes one comparison per step, and the loop waits for the device only there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..config.notes import print_note

MAX_IN_A_ROW = 3  # bad steps, at which the run goes back to its last checkpoint
MAX_RETURNS = 3  # times that a run may go back
SLOWER = 0.5  # factor of the learning rate each time that a run goes back
MAX_NAMES = 5  # images in a message
STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "act_scale")  # buffers that a forward changes


class NotFinite(Exception):
    """Too many steps in a row were not finite: the run has to go back to its last checkpoint."""


class Guard:
    """Leaves out steps that are not finite, and restores the statistics of layers that their batches changed.

    skipped: optimizer steps left out so far; in_a_row: the latest of them without a good one between; returned: how
    often the run went back to a checkpoint. names: gives the names of images by their indices.
    """

    def __init__(self, model: nn.Module, names: Callable[[Sequence[int]], list[str]]) -> None:
        self.names = names
        self.skipped = self.returned = self.in_a_row = 0
        self._losses: list[Tensor] = []  # of the batches whose gradients are gathered for the next step
        self._indices: list[list[int]] = []
        self._reported: set[int] = set()  # images that were named once
        self._buffers = [b for name, b in model.named_buffers() if name.rpartition(".")[2] in STATISTICS]
        self._good = [buffer.clone() for buffer in self._buffers]  # the statistics after the last good step

    def state(self) -> dict[str, object]:
        """What a checkpoint needs, under the keys of files: the counts, and the statistics after the last good step."""
        counts = {"skipped": self.skipped, "row": self.in_a_row, "returned": self.returned}
        return {**counts, "statistics": self._good}

    @torch.no_grad()
    def restore(self, state: Mapping[str, object]) -> None:
        """Restore what `state` gave; without statistics (older files) those of the model now are good."""
        self.accept()
        for good, saved in zip(self._good, state.get("statistics") or (), strict=False):
            good.copy_(saved)
        self.skipped, self.in_a_row, self.returned = state["skipped"], state.get("row", 0), state["returned"]

    def watch(self, loss: Tensor, indices: Sequence[int]) -> None:
        """Remember a batch of the next step: its loss (scalar), and the indices of its samples."""
        self._losses.append(loss.detach())
        self._indices.append(list(indices))

    def is_finite(self, norm: Tensor) -> bool:
        """Whether the gradient's norm and all losses of the step are finite. Waits for the device."""
        return bool(torch.stack([norm.detach().float(), *(loss.float() for loss in self._losses)]).isfinite().all())

    def losses_are_finite(self) -> bool:
        """Whether all losses of the step are finite. Waits for the device."""
        return not self._losses or bool(torch.stack(self._losses).isfinite().all())

    @torch.no_grad()
    def accept(self) -> None:
        """Record a good step: its statistics are what a bad step goes back to."""
        if self._buffers:
            torch._foreach_copy_(self._good, self._buffers)
        self.in_a_row = 0
        self._clear()

    @torch.no_grad()
    def skip(self, position: str) -> None:
        """Record a bad step: restore the statistics and print which images it was made of, each image once.

        position: where in the run, for the message. Raises NotFinite at the third bad step in a row.
        """
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._good)
        text = self._report(position)
        print_note(text)
        self._clear()
        if self.in_a_row >= MAX_IN_A_ROW:
            raise NotFinite(text)

    def overflowed(self) -> None:
        """Record a step whose float16 gradients overflowed although its losses were finite: no image is named."""
        self._clear()

    def _report(self, position: str) -> str:
        batches = list(zip(self._losses, self._indices, strict=True))
        bad = [index for loss, indices in batches if not bool(loss.isfinite()) for index in indices]
        suspects = bad or [index for indices in self._indices for index in indices]
        new = [index for index in suspects if index not in self._reported]
        self._reported.update(new)
        part = "the loss" if bad else "the gradient"
        text = f"{part} is not finite at {position}: step left out ({self.skipped} so far, {self.in_a_row} in a row)"
        if new:
            more = f" and {len(new) - MAX_NAMES} more" if len(new) > MAX_NAMES else ""
            text += f"; its images: {', '.join(self.names(new[:MAX_NAMES]))}{more}"
        return text

    def _clear(self) -> None:
        self._losses, self._indices = [], []
