"""What busy neighbours cost: predict and a training step of scale n beside 0, 1 and 4 of them. By hand, not a test:

    python tests/bench/neighbours.py [imgsz=320] [batch=8] [rounds=7] [neighbours=0,1,4]

A neighbour is a process that counts. Each way of waiting, and each number of threads, has a process of its own, because
OpenMP reads the environment once. The processes take turns: each measures alone, the others sleep. Times are medians in
ms; `quiet` divides by the same way without neighbours, `torch` by the way of torch itself without neighbours.

config/threads.py chooses the way of torch on a quiet machine, and beside busy programs sleeping threads, as many as
processors are left. Targets: nothing is lost when quiet; a training step takes at most 1.6 times the quiet one of torch
beside one neighbour, and at most 4 times beside four. Measured on two cores of an AMD EPYC (AVX-512, 320 px, batch 8),
training, two runs: sleeping threads cost 1.4 and 1.8 times when quiet. Beside one neighbour two spinning threads take
2.7 and 3.8 times, two sleeping ones 1.7 and 2.6, and one thread 1.3 and 1.8. Beside four (second run) these are 10.9,
5.9 and 4.6 times. On two cores of an Intel Xeon with AMX: quiet, sleeping threads cost 1.25 times; beside one neighbour
two spinning threads take 2.9 times, two sleeping ones 2.3 and one thread 1.9; beside four one thread takes 4.5. One
thread takes 1.5 times there where nothing else runs, so that a neighbour on the other core costs it a third.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WAYS = {  # name -> environment
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin as torch does": {},
    "spin 1000 times": {"GOMP_SPINCOUNT": "1000"},
    "spin 10000 times": {"GOMP_SPINCOUNT": "10000"},
    "passive, 1 thread": {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"},
}
WORK = ("predict", "train")
SPIN = "while True: pass"


def serve(imgsz: int, batch: int) -> None:
    """Do a piece of work for each line of stdin, and print its seconds."""
    import torch  # before the package, which would choose how threads wait
    from train import Clock, Training, passes, random_samples, read_from_memory

    from bitfalcon_plugin.data.loading.loader import Reading, TrainLoader
    from bitfalcon_plugin.models.build import build
    from bitfalcon_plugin.models.inference.prepare import prepare_for_inference

    device = torch.device("cpu")
    torch.manual_seed(0)
    training = Training(imgsz, batch, device, False, 4)
    loader = TrainLoader(random_samples(imgsz, batch), Reading(device, 0), imgsz=imgsz, batch=batch, seed=0)
    read_from_memory(loader)
    batches = passes(loader, training, sys.maxsize, Clock(device, False))
    network = prepare_for_inference(build("yolov12.yaml", "n", nc=4).eval(), device)
    image = torch.rand(1, 3, imgsz, imgsz)

    def train() -> None:
        training.step(next(batches), Clock(device, False))

    @torch.inference_mode()
    def predict() -> None:
        for _ in range(5):
            network(image)

    work = {"predict": predict, "train": train}
    for piece in (predict, train) * 2:
        piece()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        work[line.strip()]()
        print(time.perf_counter() - start, flush=True)


def start_server(imgsz: int, batch: int, way: dict[str, str]) -> subprocess.Popen:
    """Start a process that waits as `way` says and has done its first work."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP", "KMP", "MKL"))}
    command = [sys.executable, __file__, "serve", str(imgsz), str(batch)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, env={**kept, "OMP_NUM_THREADS": str(THREADS), **way}, **pipes)
    assert server.stdout.readline().strip() == "ready"
    return server


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Run processes that count, until the block ends."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        time.sleep(1)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main(imgsz: int = 320, batch: int = 8, rounds: int = 7, neighbours: str = "0,1,4") -> None:
    servers = {name: start_server(imgsz, batch, way) for name, way in WAYS.items()}
    print(f"yolov12 n, imgsz {imgsz}, batch {batch}, {THREADS} threads; predict: five images, train: one step")
    quiet: dict[tuple[str, str], float] = {}
    try:
        for count in map(int, neighbours.split(",")):
            seconds = {(name, piece): [] for name in servers for piece in WORK}
            with busy(count):
                for _ in range(rounds):
                    for (name, piece), taken in seconds.items():
                        print(piece, file=servers[name].stdin, flush=True)
                        taken.append(float(servers[name].stdout.readline()))
            medians = {key: statistics.median(taken) for key, taken in seconds.items()}
            quiet = quiet or medians
            print(f"\n{count} neighbours" + "".join(f"{f'{piece} ms':>14}{'quiet':>8}{'torch':>9}" for piece in WORK))
            for name in servers:
                cells = []
                for piece in WORK:
                    value = medians[name, piece]
                    against = value / quiet[name, piece], value / quiet["spin as torch does", piece]
                    cells.append(f"{value * 1e3:14.0f}{against[0]:8.2f}{against[1]:9.2f}")
                print(f"{name:<20}".ljust(12) + "".join(cells))
    finally:
        for server in servers.values():
            server.kill()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(*map(int, sys.argv[2:]))
    else:
        given = dict(argument.split("=", 1) for argument in sys.argv[1:])
        main(**{name: value if name == "neighbours" else int(value) for name, value in given.items()})
