"""What happens when a loss or a gradient is not finite: the step is left out, named, and the third in a row goes back.

One comparison a step, the only time that the loop waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

IN_A_ROW = 3  # bad steps before the run goes back to its last checkpoint
RETURNS = 3  # times a run may go back before it ends
SLOWER = 0.5  # what the learning rate is multiplied by each time
NAMED = 5  # images in a message


class WentBad(Exception):
    """Steps in a row were not finite: go back to the last good checkpoint."""


class Guard:
    """Keeps one bad batch from spoiling the weights, the statistics of the batch norms and the log.

    skipped: optimizer steps left out so far; returned: how often the run went back.
    """

    def __init__(self, model: nn.Module, names: Callable[[Sequence[int]], list[str]], say: Callable[[str], None]):
        self.names, self.say = names, say
        self.skipped = self.returned = self.row = 0
        self._losses: list[Tensor] = []
        self._indices: list[list[int]] = []
        self._told: set[int] = set()
        self._buffers = [
            b
            for name, b in model.named_buffers()
            if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked", "act_scale")
        ]
        self._kept = [buffer.clone() for buffer in self._buffers]

    def state(self) -> dict[str, object]:
        """What a checkpoint needs: the statistics before the step that is being gathered, and the bad steps in a row."""
        return {"row": self.row, "statistics": self._kept}

    @torch.no_grad()
    def restore(self, row: int, statistics: Sequence[Tensor] | None) -> None:
        """Take up what `state` gave; None (of older files): the statistics as they are now are good."""
        self.keep()
        for kept, saved in zip(self._kept, statistics or ()):
            kept.copy_(saved)
        self.row = row

    def watch(self, loss: Tensor, indices: Sequence[int]) -> None:
        """Remember a batch of the step that is being gathered: its loss (scalar), and which samples it was made of."""
        self._losses.append(loss.detach())
        self._indices.append(list(indices))

    def is_fine(self, norm: Tensor) -> bool:
        """Whether the gradient's norm and all losses of the step are finite. Waits for the device."""
        return bool(torch.stack([norm.detach().float(), *(loss.float() for loss in self._losses)]).isfinite().all())

    @torch.no_grad()
    def keep(self) -> None:
        """The step was good: this is what a bad one goes back to."""
        if self._buffers:
            torch._foreach_copy_(self._kept, self._buffers)
        self.row = 0
        self._forget()

    @torch.no_grad()
    def skip(self, where: str) -> None:
        """The step is left out: undo what the batch did to the statistics, say once whose fault it was.

        Raises WentBad at the third in a row.
        """
        self.skipped, self.row = self.skipped + 1, self.row + 1
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._kept)
        bad = [
            index
            for loss, indices in zip(self._losses, self._indices)
            if not bool(loss.isfinite())
            for index in indices
        ]
        suspects = bad or [index for indices in self._indices for index in indices]
        new = [index for index in suspects if index not in self._told]
        self._told.update(new)
        what = "the loss" if bad else "the gradient"
        text = f"{what} is not finite at {where}: step left out ({self.skipped} so far, {self.row} in a row)"
        if new:
            more = f" and {len(new) - NAMED} more" if len(new) > NAMED else ""
            text += f"; its images: {', '.join(self.names(new[:NAMED]))}{more}"
        self.say(f"note: {text}")
        self._forget()
        if self.row >= IN_A_ROW:
            raise WentBad(text)

    def overflowed(self) -> None:
        """A step whose gradient only overflowed 16 bits: the scaler left it out and lowers its scale; losses were fine."""
        self._forget()

    def losses_are_finite(self) -> bool:
        """Of the step at hand. Waits for the device."""
        return not self._losses or bool(torch.stack(self._losses).isfinite().all())

    def _forget(self) -> None:
        self._losses, self._indices = [], []
