"""Experiments in Comet: `loggers=comet`. An offline archive in the run's folder, unless Comet itself is told a key.

Told: by COMET_API_KEY or ~/.comet.config; `comet upload` sends an archive later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..train.loggers import LoggedRun


class Logger:
    """An experiment with the settings as parameters; it records nothing that it is not given."""

    def start(self, run: LoggedRun, id: str) -> str:
        os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")  # read when it is imported
        import comet_ml

        options = {"disabled": False, "log_code": False, "log_git_metadata": False, "log_env_details": False}
        options |= {"auto_output_logging": False, "display_summary_level": 0}
        if os.environ.get("COMET_API_KEY") or Path("~/.comet.config").expanduser().is_file():
            kind, names = (comet_ml.ExistingExperiment if id else comet_ml.Experiment), {"project_name": run.project}
        else:
            kind = comet_ml.ExistingOfflineExperiment if id else comet_ml.OfflineExperiment
            names = {"project_name": run.project, "offline_directory": str(run.folder)}
        again = {"previous_experiment": id} if id else {}
        self.experiment = kind(**names, **options, **again)
        self.experiment.set_name(run.name)
        self.experiment.log_parameters(dict(run.parameters))
        return self.experiment.get_key()

    def epoch(self, number: int, numbers: Mapping[str, float]) -> None:
        self.experiment.log_metrics(dict(numbers), step=number, epoch=number)

    def end(self, summary: Mapping[str, float], figures: Sequence[Path], best: Path | None) -> None:
        self.experiment.log_metrics(dict(summary), prefix="best")
        for path in figures:
            self.experiment.log_image(str(path), name=path.stem)
        if best is not None and best.is_file():
            self.experiment.log_model(best.stem, str(best))
        self.experiment.end()
