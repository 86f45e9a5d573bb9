"""The benchmark of runtimes as a table of pandas, over YOLO.benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...benchmark.report import Bench
from ...config.errors import UserError
from ...yolo import YOLO

COLUMNS = ("Format", "Status", "Size (MB)", "metrics/mAP50-95(B)", "Inference time (ms/im)", "FPS")


def benchmark(
    model: Any = "yolov12n.pt",
    data: Any = None,
    imgsz: int = 160,
    half: bool = False,
    int8: bool = False,
    device: Any = "cpu",
    verbose: Any = False,
    eps: float = 1e-3,
    format: str = "",
    **more: Any,
) -> Any:
    """Measure every installed runtime with a model and return a DataFrame with a row for each; a failure is a row too.

    model: a path, or a YOLO object. data: where it is given, mAP is measured. format: rows with this in their name.
    half, int8 and eps have no effect: every precision is measured. verbose, a number: raise
    AssertionError where the mAP of a row is lower. Raises UserError without pandas.
    """
    try:
        import pandas
    except ImportError as error:
        raise UserError(
            "benchmark() returns a DataFrame: pip install pandas . YOLO(...).benchmark() needs none."
        ) from error
    network = YOLO(model) if isinstance(model, (str, Path)) else model
    settings = {"imgsz": imgsz, "device": str(device), **({"data": data} if data else {})}
    table = pandas.DataFrame(rows_of(network.benchmark(**settings), format), columns=list(COLUMNS))
    if isinstance(verbose, float):
        low = table[table[COLUMNS[3]] < verbose]
        if len(low):
            raise AssertionError(f"mAP below {verbose}: {', '.join(low['Format'])}")
    return table


def rows_of(bench: Bench, format: str = "") -> list[tuple[Any, ...]]:
    """Return the records of a benchmark as rows of COLUMNS; a number that was not measured is None."""
    rows = []
    for record in bench.rows:
        if format and format.lower() not in record.name.lower():
            continue
        time = record.latency and record.latency.median / bench.batch
        status = "failed" if record.reason and not record.latency else "ok"
        size = None if record.bytes is None else round(record.bytes / 1e6, 1)
        speed = (round(time, 2), round(1000 / time, 1)) if time else (None, None)
        rows.append((record.name, status, size, next(iter(record.numbers.values()), None), *speed))
    return rows


class ProfileModels:
    """Times of several models, which YOLO.benchmark measures one by one."""

    def __init__(self, *args: Any, **kwargs: Any):
        raise UserError(f"{type(self).__name__} is not here: YOLO(path).benchmark() measures each model.")


class RF100Benchmark(ProfileModels):
    """Trainings on a collection of data sets, which would be fetched."""
