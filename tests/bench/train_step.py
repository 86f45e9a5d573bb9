"""A training step on the CPU: what 16 bits, the memory format and torch.compile gain, and where its time goes. By hand:

    python -m tests.bench.train_step [scale=n] [imgsz=320] [batch=8] [rounds=5] [compile=0] [operators=12]

The ways of computing take turns in one process; a step is forward, loss, backward, optimizer and average. Times are
medians in ms of wall time, so nothing else should run. compile: measure torch.compile of the network too, whose seconds
before the first step are printed beside it. operators: so many operators of a step in float32 with their shares.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from torch.profiler import ProfilerActivity, profile

from bitfalcon_plugin.data.augmentation.augment import Batch
from bitfalcon_plugin.data.loading.loader import Reading, TrainLoader
from tests.bench.train import Clock, Training, passes, random_samples, read_from_memory

CPU = torch.device("cpu")


def one_batch(imgsz: int, batch: int, training: Training) -> Batch:
    loader = TrainLoader(random_samples(imgsz, batch), Reading(CPU, 0), imgsz=imgsz, batch=batch, seed=0)
    read_from_memory(loader)
    return next(passes(loader, training, 1, Clock(CPU, False)))


def seconds_of(training: Training, data: Batch) -> float:
    start = time.perf_counter()
    training.step(data, Clock(CPU, False))
    return time.perf_counter() - start


def main(
    scale: str = "n", imgsz: int = 320, batch: int = 8, rounds: int = 5, compile: int = 0, operators: int = 12
) -> None:
    ways = {name: Training(imgsz, batch, CPU, name == "compiled", 4, scale) for name in names(compile)}
    ways["bfloat16"].precision = torch.bfloat16
    ways["planes of channels"].model.to(memory_format=torch.contiguous_format)
    data = one_batch(imgsz, batch, ways["float32"])
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    first = {name: seconds_of(training, data) for name, training in ways.items()}
    for _ in range(rounds + 1):
        for name, training in ways.items():
            seconds[name].append(seconds_of(training, data))
    print(f"yolov12 {scale}, imgsz {imgsz}, batch {batch}, {torch.get_num_threads()} threads; the first step aside")
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name, value in medians.items():
        gain = medians["float32"] / value
        print(f"{name:<20}{value * 1e3:8.0f} ms{gain:7.2f} times as fast; first step {first[name]:.1f} s")
    show_operators(ways["float32"], data, operators)


def names(compile: int) -> list[str]:
    return ["float32", "bfloat16", "planes of channels", *(["compiled"] if compile else [])]


def show_operators(training: Training, data: Batch, count: int) -> None:
    """Print the operators that take most of a step, without the time of those that they call."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        training.step(data, Clock(CPU, False))
    rows = sorted(profiled.key_averages(), key=lambda row: -row.self_cpu_time_total)
    whole = sum(row.self_cpu_time_total for row in rows)
    for row in rows[:count]:
        print(f"{row.self_cpu_time_total / whole:7.1%}  {row.key} ({row.count} calls)")


if __name__ == "__main__":
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    main(**{key: int(value) if value.isdigit() else value for key, value in words.items()})
