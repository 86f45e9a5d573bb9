"""Runs in Weights & Biases: `loggers=wandb`. Offline, in the run's folder, unless wandb itself is told otherwise.

Told: by WANDB_MODE, WANDB_API_KEY or `wandb login`; `wandb sync` sends an offline run later.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..train.loggers import LoggedRun


class Logger:
    """A run of wandb with the settings as its config, an artifact of the best weights and the pictures."""

    def start(self, run: LoggedRun, id: str) -> str:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported
        import wandb

        again = {"id": id, "resume": "allow"} if id else {}
        self.run = wandb.init(
            project=run.project,
            name=run.name,
            dir=str(run.folder),
            config=dict(run.parameters),
            mode=None if _is_told() else "offline",
            settings=wandb.Settings(console="off", silent=True),
            **again,
        )
        return self.run.id

    def epoch(self, number: int, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers), step=number)

    def end(self, summary: Mapping[str, float], figures: Sequence[Path], best: Path | None) -> None:
        import wandb

        self.run.summary.update(dict(summary))
        if figures:
            self.run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in figures})
        if best is not None and best.is_file():
            artifact = wandb.Artifact(f"{self.run.id}-{best.stem}", type="model")
            artifact.add_file(str(best))
            self.run.log_artifact(artifact)
        self.run.finish(exit_code=0 if best else 1)


def _is_told() -> bool:
    if os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
