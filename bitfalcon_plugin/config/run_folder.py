"""The folders of runs: where they lie, and a new one for each run."""

from __future__ import annotations

from pathlib import Path

from .errors import UserError
from .user_settings import folder as user_folder


def runs_top(project: str | None = None, task: str = "detect") -> Path:
    """Return the folder of run folders: project=, otherwise that of the task in the user's runs_dir or in runs."""
    return Path(project) if project else (user_folder("runs_dir") or Path("runs")) / task


def new_run_dir(
    mode: str, project: str | None = None, name: str | None = None, exist_ok: bool = False, task: str = "detect"
) -> Path:
    """Create and return the folder of a run: `<name or mode>` in `runs_top`; `train2`, ... where it exists.

    exist_ok: use the folder where it exists. Raises UserError where the folder cannot be created.
    """
    first = runs_top(project, task) / (name or mode)
    folder, count = first, 1
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=exist_ok)
            return folder
        except FileExistsError as error:
            if exist_ok:
                raise UserError(f"Run folder '{folder}' is a file. Give another name=.") from error
            count += 1
            folder = first.with_name(f"{first.name}{count}")
        except OSError as error:
            raise UserError(f"Run folder '{folder}' cannot be made: {error}. Give a writable project=.") from error
