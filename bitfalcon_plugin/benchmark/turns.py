"""Time runtimes in turns: with the batch that was asked for on all threads, then with others and on one thread."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace

import torch
from torch import Tensor

from ..config.printable import say
from ..export.runtimes.runtime import Runtime
from ..models.inference.threads import threads
from .candidates import REFERENCE, Candidate, Network, open_candidate
from .report import EngineRecord, Workload
from .timing import Limit, interleave
from .trial import error_line

MAX_SLOWDOWN = 10.0  # times the reference; a candidate that is slower in every sample is left out (see Limit)
Records = dict[str, EngineRecord]  # by the name of the candidate
Runtimes = Mapping[str, Network | Runtime]  # by the name of the candidate: those that are open and have not failed
WithFile = Callable[[Candidate, int], Candidate]  # candidate, batch -> the candidate with its file


def update(records: Records, name: str, **values: object) -> None:
    """Change values of the record of a candidate."""
    records[name] = replace(records[name], **values)


@contextmanager
def failures(records: Records, name: str) -> Iterator[None]:
    """Write what a candidate raises into its record, instead of ending the benchmark; its output is not shown."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  a runtime may raise anything
        update(records, name, reason=error_line(error))


@contextmanager
def silence() -> Iterator[None]:
    """Hide what a candidate prints while it is exported and opened."""
    nowhere = io.StringIO()
    with redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def time_in_turns(
    runtimes: Runtimes, records: Records, images: Tensor, device: torch.device, rounds: int, warmup: int
) -> Runtimes:
    """Time the runtimes in turns on a batch and write their latencies into the records.

    Returns the runtimes that neither failed nor were left out. The reason of the others is in their records.
    """
    limit = Limit(REFERENCE, MAX_SLOWDOWN)

    def forward(name: str) -> Callable[[], None]:
        runtime = runtimes[name]
        own = images.to(next(runtime.parameters()).device)

        def run() -> None:
            if not records[name].reason:  # after its first failure a runtime only waits for the others
                with failures(records, name):
                    runtime.decode(runtime(own))
                if records[name].reason and name == REFERENCE:
                    limit.lift()

        return run

    with torch.inference_mode():
        runs = {name: forward(name) for name in runtimes}
        timings = interleave(runs, rounds=rounds, warmup=warmup, device=device, limit=limit)
    for name, ratios in limit.left_out().items():
        update(records, name, reason=records[name].reason or _too_slow(ratios, records[name].precision))
    timings = {name: timing for name, timing in timings.items() if not records[name].reason}
    reference = timings.get(REFERENCE)
    for name, timing in timings.items():
        update(records, name, latency=timing, faster=timing.faster_than(reference) if reference else None)
    return {name: runtimes[name] for name in timings}


def _too_slow(ratios: Sequence[float], precision: str) -> str:
    times = ", ".join(f"{ratio:.0f}" for ratio in ratios)
    return (
        f"too slow: {times} times the reference in {len(ratios)} samples spread over the run, more than "
        f"{MAX_SLOWDOWN:.0f} in each (this machine has no fast {precision})"
    )


def time_workloads(
    candidates: Sequence[Candidate],
    workloads: Sequence[tuple[int, int]],
    with_file: WithFile,
    image: Tensor,
    device: torch.device,
    rounds: int,
    warmup: int,
) -> tuple[Workload, ...]:
    """Time the candidates in turns for each (batch, threads) of `workloads`.

    image: (1, 3, H, W); a batch repeats it. with_file: gives a candidate the file for a batch; it is called once for
    each batch, or again after a failure. A candidate that fails is a record with the reason.
    """
    files: dict[tuple[str, int], Candidate] = {}
    measured = []
    for batch, count in workloads:
        records = {each.name: EngineRecord(each.name, each.precision) for each in candidates}
        images, runtimes = image.repeat(batch, 1, 1, 1), {}
        say(f"  batch {batch}, {_threads(count)}: {len(candidates)} engines", flush=True)
        with threads(count):
            for each in candidates:
                key = each.name, batch
                with failures(records, each.name), silence(), torch.inference_mode():
                    if key not in files:
                        files[key] = with_file(each, batch)
                    runtime = open_candidate(files[key], device)
                    runtime.decode(runtime(images.to(device)))  # compiles what is to be compiled
                    update(records, each.name, runtime=runtime.runtime)
                    runtimes[each.name] = runtime
            time_in_turns(runtimes, records, images, device, rounds, warmup)
        measured.append(Workload(batch, count, tuple(records.values())))
    return tuple(measured)


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"
