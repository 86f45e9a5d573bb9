"""What it gains that the C library keeps freed memory for the next tensors. By hand, not a test, for glibc:

    python -m tests.bench.freed_memory [scale=n] [imgsz=640] [batch=8] [rounds=3]

Both ways have processes of their own, because glibc cannot be told to forget its choice; the processes take turns. Each
does three kinds of work in float32 on the CPU: the network on one image, on a batch, and a training step of the batch.
Times are medians in ms over all rounds; beside them the page faults of one piece of work and the peak of the process's
memory. Measured on two cores of an Intel Xeon (AVX-512, AMX), torch 2.14.1, given back and kept, rounds=2:
batch 8: a step 2326 and 2052 ms, 236,000 and 6,900 page faults, peak 3439 and 3595 MiB; 8 images 494 and 463 ms.
batch 16: a step 6005 and 3788 ms, 777,000 and 900 page faults, peak 6206 and 5986 MiB; 16 images 1100 and 1003 ms.
Tensors of one image are small enough that neither way has page faults.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import torch

from bitfalcon_plugin.config.freed_memory import keep_freed_memory
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.inference.prepare import prepare_for_inference
from tests.bench.train import Clock, Training
from tests.bench.train_step import CPU, one_batch

WAYS = ("given back", "kept")
TIMES = 4  # of each kind of work in a process, behind two that are not counted


def works(scale: str, imgsz: int, batch: int) -> dict[str, Callable[[], object]]:
    """The kinds of work by their names."""
    network = prepare_for_inference(build("yolov12.yaml", scale, nc=80).eval(), CPU)
    training = Training(imgsz, batch, CPU, False, 80, scale)
    training.precision = None
    data = one_batch(imgsz, batch, training)

    def forward(images: torch.Tensor) -> None:
        with torch.inference_mode():
            network(images)

    one, many = (torch.rand(count, 3, imgsz, imgsz) for count in (1, batch))
    return {
        "one image": lambda: forward(one),
        f"{batch} images": lambda: forward(many),
        f"step of {batch}": lambda: training.step(data, Clock(CPU, False)),
    }


def measure(way: str, scale: str, imgsz: int, batch: int) -> dict[str, list[float]]:
    """For each work its seconds, then the page faults of one time; under "peak" the memory of the process in MiB."""
    if way == "kept" and not keep_freed_memory(CPU):
        raise SystemExit("This C library is not glibc, or a variable decides about its malloc.")
    found = {}
    for name, work in works(scale, imgsz, batch).items():
        work(), work()
        faults, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, []
        for _ in range(TIMES):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        found[name] = [*seconds, faults / TIMES]
    return {**found, "peak": [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]}


def main(scale: str = "n", imgsz: int = 640, batch: int = 8, rounds: int = 3) -> None:
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    faults, peaks = {}, {}
    for _ in range(rounds):
        for way in WAYS:
            command = [sys.executable, "-m", "tests.bench.freed_memory", way, scale, str(imgsz), str(batch)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            peaks[way] = found.pop("peak")[0]
            for name, (*times, count) in found.items():
                seconds[name, way] += times
                faults[name, way] = count
    print(f"yolov12 {scale}, imgsz {imgsz}, batch {batch}, {torch.get_num_threads()} threads, float32")
    for name, way in seconds:
        median, plain = (statistics.median(seconds[name, one]) for one in (way, WAYS[0]))
        gain = f"{plain / median:6.2f} times as fast"
        print(f"{name:<14}{way:<12}{median * 1e3:8.0f} ms{gain}{faults[name, way]:9.0f} page faults")
    print("peak of memory: " + ", ".join(f"{way} {peaks[way]:.0f} MiB" for way in WAYS))


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in WAYS:
        print(json.dumps(measure(*sys.argv[1:3], *map(int, sys.argv[3:]))))
    else:
        words = dict(word.split("=", 1) for word in sys.argv[1:])
        main(**{key: int(value) if value.isdigit() else value for key, value in words.items()})
