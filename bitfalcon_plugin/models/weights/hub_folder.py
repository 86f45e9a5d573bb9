"""A folder as the Hub of models has it: model.safetensors, config.json, and README.md, the page about the model.

config.json has the keys that other programs read, and under "bitfalcon" what the header of model.safetensors has too.
The keys of the page's front matter are those of https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath

import yaml

from ...compat.allowed import cut_line
from ...config.errors import UserError
from ...config.files import write_text
from ...config.notes import print_note
from ...config.weight_files import HUB_CARD, HUB_CONFIG, HUB_WEIGHTS, SAFETENSORS, SUFFIXES, names_folder
from ..build import task_of_graph
from .checkpoint import Checkpoint, content_of, save_checkpoint
from .files import OWN, document_text

LIBRARY = "bitfalcon"
MARK = "<!-- written by bitfalcon: a page without this line is yours, and stays -->"
PIPELINES = {  # task -> what the Hub calls it
    "detect": "object-detection",
    "segment": "image-segmentation",
    "classify": "image-classification",
    "pose": "keypoint-detection",
    "obb": "object-detection",
}
# What a licence text of one licence begins with, without regard to case -> the Hub's name of that licence.
LICENCES = {
    r"agpl[- ]?(v|version )?3": "agpl-3.0",
    r"lgpl[- ]?(v|version )?3": "lgpl-3.0",
    r"gpl[- ]?(v|version )?3": "gpl-3.0",
    r"apache[- ]?(licen[cs]e,? ?)?(v|version )?2": "apache-2.0",
    r"mit\b": "mit",
    r"bsd[- ]3": "bsd-3-clause",
    r"bsd[- ]2": "bsd-2-clause",
    r"cc0\b": "cc0-1.0",
    r"cc[- ]by[- ]nc[- ]sa[- ]4": "cc-by-nc-sa-4.0",
    r"cc[- ]by[- ]nc[- ]4": "cc-by-nc-4.0",
    r"cc[- ]by[- ]sa[- ]4": "cc-by-sa-4.0",
    r"cc[- ]by[- ]4": "cc-by-4.0",
}


def save_weights(path: str | Path, checkpoint: Checkpoint, what: str) -> Path:
    """Write a checkpoint in our format: .pt, .safetensors, or a folder where `path` ends with a slash or is one.

    Return the path. what: the beginning of the message, for a path that is none of these, which raises UserError.
    """
    if isinstance(path, (str, Path)) and Path(path).suffix.lower() in SUFFIXES and not Path(path).is_dir():
        save_checkpoint(path, _writable(checkpoint, path))
    elif isinstance(path, (str, Path)) and names_folder(path):
        write_folder(Path(path), checkpoint)
    else:
        raise UserError(
            f"{what}: expected a name that ends in .pt or .safetensors, or a folder that ends with a slash."
        )
    return Path(path)


def write_folder(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the three files into a folder, each whole or not at all; other files there stay, a README.md of others too.

    Raises UserError where the folder holds the model of another program.
    """
    checkpoint = _writable(replace(checkpoint, training=None), folder / HUB_WEIGHTS)
    config, card = folder / HUB_CONFIG, folder / HUB_CARD
    if config.exists() and f'"library_name": "{LIBRARY}"' not in config.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"'{config}' is of a model of another program, which would be lost. Give another folder.")
    document = json.loads(document_text(content_of(checkpoint)))
    write_text(config, json.dumps(_config(checkpoint, document), indent=1) + "\n")
    save_checkpoint(folder / HUB_WEIGHTS, replace(checkpoint, date=document["date"]))
    if card.exists() and MARK not in card.read_text(encoding="utf-8", errors="replace"):
        print_note(f"'{card}' was not written by bitfalcon: it stays as it is.")
    else:
        write_text(card, card_text(checkpoint, folder.resolve().name))


def _writable(checkpoint: Checkpoint, path: str | Path) -> Checkpoint:
    """The checkpoint without what JSON has no number for: metrics that were not measured."""
    if Path(path).suffix.lower() != SAFETENSORS:
        return checkpoint
    return replace(checkpoint, metrics=_measured(checkpoint))


def _measured(checkpoint: Checkpoint) -> dict[str, float]:
    numbers = {name: value for name, value in checkpoint.metrics.items() if isinstance(value, (int, float))}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _config(checkpoint: Checkpoint, document: Mapping[str, object]) -> dict[str, object]:
    graph = checkpoint.graph
    return {
        "library_name": LIBRARY,
        "model_type": PurePath(graph.name).stem,
        "architectures": [f"{PurePath(graph.name).stem}{graph.scale}"],
        "task": task_of_graph(graph),
        "id2label": {str(index): name for index, name in graph.names.items()},
        "image_size": checkpoint.settings.get("imgsz"),
        "license": checkpoint.license,
        OWN: document,
    }


def card_text(checkpoint: Checkpoint, name: str) -> str:
    """Return the page about a model called `name`, in Markdown: licence, data, metrics, classes and how it is run."""
    graph, task, data = checkpoint.graph, task_of_graph(checkpoint.graph), _data_name(checkpoint)
    metrics = _measured(checkpoint)
    front = {
        **_license_keys(checkpoint.license),
        "library_name": LIBRARY,
        "pipeline_tag": PIPELINES[task],
        "tags": [LIBRARY, task, PurePath(graph.name).stem],
        "metrics": sorted(metrics),
        "model-index": [{"name": name, "results": _results(task, data, metrics)}] if metrics else None,
    }
    front = {key: value for key, value in front.items() if value}
    size = f" of size {graph.scale}" if graph.scale else ""
    rows = "\n".join(f"| {_plain(metric)} | {value:.5g} |" for metric, value in metrics.items())
    table = f"| metric | value |\n|---|---|\n{rows}" if metrics else "None are recorded in the file."
    licence = checkpoint.license or "Not stated. Whoever shares the weights says under which licence."
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---
{MARK}

# {_plain(name)}

Weights of {_plain(PurePath(graph.name).stem)}{size} for task {task}, {graph.nc} classes, as safetensors.

## Licence of the weights

{_plain(licence)}

## Data

{f"Trained on {_plain(data)}." if data else "Not stated in the file."}

Classes: {_plain(", ".join(graph.names.values()))}

## Metrics

{table}

## Use

```bash
pip install 'bitfalcon[safetensors]'
bitfalcon predict model=<this folder> source=images/
```
"""


def _data_name(checkpoint: Checkpoint) -> str:
    """The last part of data=: the folders before it are nobody's business."""
    return cut_line(re.split(r"[/\\]", str(checkpoint.settings.get("data") or "").rstrip("/\\"))[-1], 200)


def _license_keys(licence: str | None) -> dict[str, str]:
    if not licence:
        return {"license": "unknown"}
    is_one = len(licence) < 100 and ";" not in licence
    known = next((name for text, name in LICENCES.items() if is_one and re.match(text, licence, re.IGNORECASE)), None)
    return {"license": known} if known else {"license": "other", "license_name": licence[:200]}


def _results(task: str, data: str, metrics: Mapping[str, float]) -> list[dict[str, object]]:
    return [
        {
            "task": {"type": PIPELINES[task]},
            "dataset": {"type": data or "unknown", "name": data or "unknown"},
            "metrics": [{"type": name, "value": value} for name, value in metrics.items()],
        }
    ]


def _plain(text: str) -> str:
    """Text of a file as it is read on the page: without the characters that Markdown and HTML take for their own."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", cut_line(text, 20_000))
