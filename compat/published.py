"""Where the weights that others publish by name come from, for the message about a file that is not here.

Nothing is fetched: a user downloads a file by hand. Names as in spec/interface.md section 4.1 and spec/families.md.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..config.weight_files import searched

# A name of weights -> the page of their makers' releases.
PAGES: dict[str, str] = {
    r"yolov12(-turbo)?[nslmx](-\w+)?": "https://github.com/sunsmarterjie/yolov12/releases",
    r"(yolov?(3|5|8|9|10|11|12|26)\w*|rtdetr|sam|mobile_sam|FastSAM|yolo_nas)\S*": (
        "https://github.com/ultralytics/assets/releases"
    ),
}
LICENSE = "AGPL-3.0"  # of both
# Names that look like theirs, and that nobody has published (spec/pose-obb.md and spec/segment-classify.md 1.1).
UNPUBLISHED = r"(yolov?12[nslmx]?(?:-turbo)?[nslmx]?)-(pose|obb)|(yolo12[nslmx]?)-(seg|cls)"


def where_to_get(path: str | Path) -> str:
    """Return how to get the weights that are called like `path`, or "" where nobody publishes such a name."""
    path = Path(path)
    if path.suffix == ".pt" and (name := re.fullmatch(UNPUBLISHED, path.stem, re.IGNORECASE)):
        detector, task = filter(None, name.groups())
        start, whose = ("", "") if task == "cls" else (f" pretrained={detector}.pt", ", from those of a detector")
        command = f"bitfalcon train model={path.stem}.yaml{start} data=data.yaml"
        return f"Nobody publishes weights called {path.name}; train your own{whose}: {command}"
    page = next((page for name, page in PAGES.items() if re.fullmatch(name, path.stem, re.IGNORECASE)), None)
    if page is None or path.suffix != ".pt":
        return ""
    return (
        f"Its makers publish {path.name} at {page} (licence {LICENSE}, which stays with the weights): download it in a "
        f"browser and put it {_places(path)}, or give the path of your copy."
    )


def _places(path: Path) -> str:
    if path.name != str(path):  # a path with a folder is looked for nowhere else
        return f"into '{path.absolute().parent}'"
    return f"where it is looked for ({searched()})"
