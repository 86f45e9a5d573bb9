"""Threads and processes predict while the weights are replaced: each result must belong to one set of weights.

    python -m tests.attack.swaps threads=8 processes=4 seconds=600

Threads share one YOLO object, into which the main thread loads the one and the other checkpoint in turn. Processes
open a file that is replaced all the time. Every result must be equal, to the last bit, to that of one checkpoint.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from tests.attack.state import words

DEFAULTS = {"threads": 8, "processes": 4, "seconds": 60.0}
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def lay_out(folder: Path) -> list[Path]:
    """Write two checkpoints of one graph whose detections all differ, and a copy of the first as now.pt."""
    from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
    from tests.helpers.tiny_models import CONV, lived, small_model

    files = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = lived(small_model(CONV, (-1, 1, "Conv", [32, 3, 2])))
        files.append(folder / f"{seed}.pt")
        save_checkpoint(files[-1], Checkpoint(model.graph, model.state_dict()))
    shutil.copy(files[0], folder / "now.pt")
    return files


def detections(yolo: object) -> torch.Tensor:
    """The rows of boxes that a model finds in the image."""
    (result,) = yolo.predict(IMAGE, imgsz=64, conf=0.0001, max_det=50, device="cpu", verbose=False)
    return result.boxes.data


def expected(files: list[Path]) -> list[torch.Tensor]:
    """What each checkpoint finds."""
    from bitfalcon_plugin import YOLO

    found = [detections(YOLO(file)) for file in files]
    if not all(map(len, found)) or (found[0].shape == found[1].shape and torch.equal(*found)):
        raise RuntimeError("the two checkpoints cannot be told apart")
    return found


def belongs(rows: torch.Tensor, sets: list[torch.Tensor]) -> int:
    """The number of the checkpoint that the rows are of; -1: of none."""
    return next((index for index, each in enumerate(sets) if torch.equal(rows, each)), -1)


def in_threads(folder: Path, threads: int, seconds: float) -> list[int]:
    """Predict in threads while the weights are replaced: how many results are of the first, the second, of none."""
    from bitfalcon_plugin import YOLO

    files = lay_out(folder)
    sets, yolo, counts, faults = expected(files), YOLO(files[0]), [0, 0, 0], []
    detections(yolo)
    stop = threading.Event()

    def work() -> None:
        torch.set_num_threads(1)
        try:
            while not stop.is_set():
                counts[belongs(detections(yolo), sets)] += 1
        except BaseException as error:
            faults.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end and not faults:
        number += 1
        yolo.load(files[number % 2])
        time.sleep(0.002)
    stop.set()
    for worker in workers:
        worker.join()
    if faults:
        raise faults[0]
    return counts


def process(folder: str, seconds: float, answers: multiprocessing.Queue) -> None:
    """In a process: open the file that is replaced and predict, again and again."""
    from bitfalcon_plugin import YOLO

    torch.set_num_threads(1)
    path, counts = Path(folder), [0, 0, 0]
    sets, end = expected([path / "0.pt", path / "1.pt"]), time.monotonic() + seconds
    while time.monotonic() < end:
        counts[belongs(detections(YOLO(path / "now.pt")), sets)] += 1
    answers.put(counts)


def in_processes(folder: Path, processes: int, seconds: float) -> list[int]:
    """Predict in processes while the file of weights is replaced; counts as of `in_threads`."""
    from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint, save_checkpoint

    files = lay_out(folder)
    checkpoints = [load_checkpoint(file) for file in files]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    children = [context.Process(target=process, args=(str(folder), seconds, answers)) for _ in range(processes)]
    for child in children:
        child.start()
    number = 0
    while any(child.is_alive() for child in children) and answers.qsize() < processes:
        number += 1
        save_checkpoint(folder / "now.pt", checkpoints[number % 2])
        time.sleep(0.002)
    counts = [answers.get(timeout=60) for _ in children if child.exitcode in (None, 0)]
    for child in children:
        child.join()
    if any(child.exitcode for child in children):
        raise RuntimeError(f"processes ended with {[child.exitcode for child in children]}")
    return [sum(column) for column in zip(*counts)]


def main() -> None:
    """Run as the words say."""
    given = words(DEFAULTS)
    wrong = 0
    for run, number in ((in_threads, given["threads"]), (in_processes, given["processes"])):
        with tempfile.TemporaryDirectory() as folder:
            counts = run(Path(folder), number, given["seconds"])
        print(f"{run.__name__}: {counts[0]} of the first weights, {counts[1]} of the second, {counts[2]} of none")
        wrong += counts[2]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
