"""Tasks in ClearML: `loggers=clearml`. Offline, unless ClearML itself is told of a server.

Told: by clearml.conf (`clearml-init`), CLEARML_CONFIG_FILE, or CLEARML_API_HOST and keys.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..train.loggers import LoggedRun

TOLD = ("CLEARML_CONFIG_FILE", "CLEARML_API_HOST", "CLEARML_API_ACCESS_KEY", "CLEARML_OFFLINE_MODE")


class Logger:
    """A task with the settings as parameters; it changes no other package, which ClearML would do by itself."""

    def start(self, run: LoggedRun, id: str) -> str:
        from clearml import Task

        if not any(map(os.environ.get, TOLD)) and not Path("~/clearml.conf").expanduser().is_file():
            Task.set_offline(True)
        self.task = Task.init(
            project_name=run.project,
            task_name=run.name,
            continue_last_task=id or False,
            reuse_last_task_id=False,
            auto_connect_arg_parser=False,
            auto_connect_frameworks=False,
            auto_connect_streams=False,
            auto_resource_monitoring=False,
        )
        self.task.connect(dict(run.parameters), name="settings")
        self.last = 0
        return "" if Task.is_offline() else self.task.id

    def epoch(self, number: int, numbers: Mapping[str, float]) -> None:
        self.last = number
        for name, value in numbers.items():
            title, _, series = name.partition("/")
            self.task.get_logger().report_scalar(title, series, value, number)

    def end(self, summary: Mapping[str, float], figures: Sequence[Path], best: Path | None) -> None:
        for name, value in summary.items():
            self.task.get_logger().report_single_value(name, value)
        for path in figures:
            self.task.get_logger().report_image("figures", path.stem, self.last, str(path))
        if best is not None and best.is_file():
            self.task.upload_artifact(best.stem, artifact_object=str(best))
        self.task.close()
