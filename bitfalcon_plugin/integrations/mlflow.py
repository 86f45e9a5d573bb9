"""Runs in MLflow: `loggers=mlflow`. In files beside the run's folder, unless MLFLOW_TRACKING_URI names a server."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..train.loggers import LoggedRun

PARAMETERS = 100  # of one request
LONGEST = 500  # characters of a value


class Logger:
    """A run of MLflow with the settings as parameters, and the pictures and the best weights as artifacts."""

    def start(self, run: LoggedRun, id: str) -> str:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (run.folder.parent / "mlruns").as_uri()
        self.client = MlflowClient(uri)
        self.id = id
        if not id:
            experiment = self.client.get_experiment_by_name(run.project)
            number = experiment.experiment_id if experiment else self.client.create_experiment(run.project)
            self.id = self.client.create_run(number, run_name=run.name).info.run_id
            values = [Param(key, str(value)[:LONGEST]) for key, value in run.parameters.items()]
            for first in range(0, len(values), PARAMETERS):
                self.client.log_batch(self.id, params=values[first : first + PARAMETERS])
        self.client.set_terminated(self.id, "RUNNING")
        return self.id

    def epoch(self, number: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)  # parentheses are not for names there
        names = {name.replace("(", "_").replace(")", ""): value for name, value in numbers.items()}
        self.client.log_batch(self.id, metrics=[Metric(name, value, now, number) for name, value in names.items()])

    def end(self, summary: Mapping[str, float], figures: Sequence[Path], best: Path | None) -> None:
        for path in figures:
            self.client.log_artifact(self.id, str(path), "figures")
        if best is not None and best.is_file():
            self.client.log_artifact(self.id, str(best), "weights")
        self.client.set_terminated(self.id, "FINISHED" if best else "KILLED")
