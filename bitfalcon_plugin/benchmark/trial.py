"""The trial of a candidate in a process of its own: time to the first images, peak memory, and no harm by a crash."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from ..config.errors import UserError
from ..config.limited_process import peak_memory
from ..train.launch import script_left_out
from .candidates import COMPILED, Candidate, open_candidate

TIMEOUT, COMPILE_TIMEOUT = 300.0, 900.0  # seconds until a candidate must have imported torch, and then have run images
GRACE = 20.0  # seconds to end after a result; compilers tidy up behind them


@dataclass(frozen=True)
class Trial:
    """The result of a trial.

    start, load, first_run, second_run: seconds until torch is imported, to open the file, of the first images and of
    the same images again. memory: peak bytes of the whole process. gpu_memory: bytes it took on the GPU, 0 without
    one.
    """

    start: float
    load: float
    first_run: float
    second_run: float
    memory: int
    gpu_memory: int = 0


def run_trial(candidate: Candidate, shape: tuple[int, int, int, int], device: torch.device) -> Trial:
    """Run a candidate on noise of a shape (B, 3, H, W) in a process of its own.

    Raises UserError with the reason where the candidate fails, crashes or takes too long.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, candidate, shape, str(device), torch.get_num_threads())
    process = context.Process(target=_child, args=arguments, daemon=True)
    timeout = COMPILE_TIMEOUT if candidate.family == COMPILED else TIMEOUT
    begin, result = time.time(), None
    with script_left_out(False):
        process.start()
    sender.close()
    try:
        if not receiver.poll(timeout):
            raise UserError(f"not ready after {timeout:.0f} s")
        start = receiver.recv() - begin
        if not receiver.poll(timeout):
            raise UserError(f"no image after {timeout:.0f} s")
        result = receiver.recv()
    except EOFError:
        process.join(10)
        raise UserError(f"its process ended with code {process.exitcode}") from None
    finally:
        process.join(0 if result is None else GRACE)
        process.kill()
        process.join()
        receiver.close()
    if isinstance(result, str):
        raise UserError(result)
    return Trial(start=start, **result)


def error_line(error: BaseException) -> str:
    """Return the reason why a candidate has no numbers, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if isinstance(error, UserError) else f"{type(error).__name__}: {text}")[:300]


def _child(sender: Connection, candidate: Candidate, shape: tuple[int, ...], device_name: str, threads: int) -> None:
    """Send the time at which torch is imported, then the measurements, or the reason of a failure as text."""
    sender.send(time.time())
    with open(os.devnull, "w", encoding="utf-8") as devnull:  # nobody needs what runtimes print
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                os.dup2(devnull.fileno(), stream.fileno())
    torch.set_num_threads(threads)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    try:
        sender.send(_measure(candidate, images, torch.device(device_name)))
    except BaseException as error:  # noqa: BLE001  a runtime may raise anything
        sender.send(error_line(error))


def _measure(candidate: Candidate, images: Tensor, device: torch.device) -> dict[str, float]:
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else 0
    times = [time.perf_counter()]
    runtime = open_candidate(candidate, device)
    times.append(time.perf_counter())
    with torch.inference_mode():
        for _ in range(2):
            runtime.decode(runtime(images)).cpu()
            times.append(time.perf_counter())
    load, first, second = (later - earlier for earlier, later in zip(times, times[1:]))
    gpu_memory = max(free - torch.cuda.mem_get_info(device)[0], 0) if on_gpu else 0
    return {"load": load, "first_run": first, "second_run": second, "memory": peak_memory(), "gpu_memory": gpu_memory}
