"""Compare times fairly: all candidates take turns, round after round, in one process; and describe the machine.

A machine that is shared or that changes its clock drifts; candidates that take turns drift together, so that their
ratios hold where the milliseconds do not.
"""

from __future__ import annotations

import copy
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from ..config.errors import UserError
from ..config.version import __version__
from ..export.formats import EXPORT_FORMATS
from ..models.detector import Detector
from ..models.inference.prepare import fold_for_inference
from ..ops.letterbox import legal_size

ROUNDS, WARMUP = 7, 1
# Instruction sets that matter for the arithmetic of networks, as Linux names them.
FLAGS = "avx2 avx_vnni avx512f avx512_vnni avx512_bf16 amx_bf16 amx_int8 asimddp i8mm bf16".split()
# Functions of torch.cpu that know them without /proc/cpuinfo. They are private to torch, so each may be missing.
PROBES = {
    "avx2": "_is_avx2_supported",
    "avx512f": "_is_avx512_supported",
    "avx512_vnni": "_is_vnni_supported",
    "avx512_bf16": "_is_avx512_bf16_supported",
    "amx_bf16": "_is_amx_tile_supported",
}
# Environment variables that forbid instructions of the CPU.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
# Packages whose versions a timing may depend on: torchvision, and those that write or run a format of export.
PACKAGES = ("torchvision", *sorted({name for row in EXPORT_FORMATS.values() for name in (*row.needs, *row.to_write)}))


@dataclass(frozen=True)
class Timing:
    """The time of one candidate: milliseconds, one value for each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median in milliseconds."""
        return statistics.median(self.rounds)

    @property
    def low(self) -> float:
        """The first quartile in milliseconds."""
        return self._quartiles()[0]

    @property
    def high(self) -> float:
        """The third quartile in milliseconds."""
        return self._quartiles()[2]

    @property
    def count(self) -> int:
        """The number of rounds."""
        return len(self.rounds)

    def faster_than(self, other: Timing) -> float:
        """Return how many times faster this is than `other`.

        With as many rounds as `other`: the median of the ratios round by round. Otherwise the ratio of the medians.
        """
        if self.count == other.count:
            return statistics.median(slow / fast for fast, slow in zip(self.rounds, other.rounds, strict=True))
        return other.median / self.median

    def as_dict(self) -> dict[str, object]:
        """Return plain values for a JSON file; `from_dict` reads them."""
        return {
            "median_ms": round(self.median, 4),
            "low_ms": round(self.low, 4),
            "high_ms": round(self.high, 4),
            "count": self.count,
            "rounds_ms": [round(value, 4) for value in self.rounds],
        }

    @classmethod
    def from_dict(cls, content: object) -> Timing:
        """Build a timing from the values of `as_dict`. Raises UserError for anything else."""
        rounds = content.get("rounds_ms") if isinstance(content, Mapping) else None
        is_list = isinstance(rounds, list) and len(rounds) > 0
        if not is_list or not all(type(value) in (int, float) and value >= 0 for value in rounds):
            raise UserError("a timing is no mapping with the milliseconds of at least one round (rounds_ms)")
        return cls(tuple(map(float, rounds)))

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.low:.1f} to {self.high:.1f})"

    def _quartiles(self) -> list[float]:
        return statistics.quantiles(self.rounds, n=4, method="inclusive") if self.count > 1 else [self.median] * 3


class Limit:
    """Leave slow candidates out of rounds, but never for one sample: a neighbour can spoil any of them.

    A candidate that took more than `factor` times as long as the reference in every round so far is measured again in
    the middle and in the last round only. It is left out if it was too slow all SAMPLES times. A candidate that was
    fast enough once takes part in all rounds that follow. With fewer rounds than SAMPLES nobody is left out.
    """

    SAMPLES = 3

    def __init__(self, reference: str, factor: float) -> None:
        self.reference, self.factor = reference, factor
        self._ratios: dict[str, list[float]] = {}  # how many times as long as the reference, by round

    def takes_part(self, name: str, number: int, rounds: int) -> bool:
        """Whether a candidate is measured in round `number` of `rounds`, from 0."""
        return number in (0, rounds // 2, rounds - 1) or not self._was_always_slow(name)

    def add(self, milliseconds: Mapping[str, float]) -> None:
        """Take the times of a round."""
        reference = milliseconds.get(self.reference)
        for name, value in milliseconds.items():
            if reference:
                self._ratios.setdefault(name, []).append(value / reference)

    def lift(self) -> None:
        """Leave nobody out from now on: the reference has failed."""
        self.reference, self._ratios = "", {}

    def left_out(self) -> dict[str, tuple[float, ...]]:
        """The candidates that are too slow: how many times as long as the reference each took, for each sample."""
        slow = [name for name in self._ratios if self._was_always_slow(name)]
        return {name: tuple(self._ratios[name]) for name in slow if len(self._ratios[name]) >= self.SAMPLES}

    def _was_always_slow(self, name: str) -> bool:
        ratios = self._ratios.get(name, ())
        return bool(ratios) and min(ratios) > self.factor


def interleave(
    runs: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
    warmup: int = WARMUP,
    seconds: float = 0.0,
    device: torch.device | None = None,
    clock: Callable[[], float] = time.perf_counter,
    limit: Limit | None = None,
) -> dict[str, Timing]:
    """Time every candidate once a round, in the order of `runs` and, in every second round, backwards.

    warmup: rounds that are not counted. seconds: a candidate is called again until this time has passed, and the mean
    of its calls counts; 0: one call. device: where the work is done; on CUDA a measurement waits for it. clock:
    returns seconds. limit: which candidates miss rounds because they are slow; those have fewer values. An exception
    of a candidate ends the measurement.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"rounds={rounds}, warmup={warmup}: expected at least one round, and no negative warm-up")
    wait = (lambda: torch.cuda.synchronize(device)) if device is not None and device.type == "cuda" else (lambda: None)
    times: dict[str, list[float]] = {name: [] for name in runs}  # milliseconds
    for number in range(-warmup, rounds):
        means = {}
        for name in list(runs) if number % 2 == 0 else reversed(runs):
            if number < 0 or limit is None or limit.takes_part(name, number, rounds):
                means[name] = _mean(runs[name], seconds, wait, clock) * 1e3
        if number >= 0:
            for name, milliseconds in means.items():
                times[name].append(milliseconds)
            if limit is not None:
                limit.add(means)
    return {name: Timing(tuple(values)) for name, values in times.items()}


def _mean(run: Callable[[], object], seconds: float, wait: Callable[[], None], clock: Callable[[], float]) -> float:
    """Return the mean seconds of a call, over as many calls as fill `seconds`, at least one."""
    wait()
    start, calls, elapsed = clock(), 0, 0.0
    while not calls or elapsed < seconds:
        run()
        wait()
        calls += 1
        elapsed = clock() - start
    return elapsed / calls


def machine() -> dict[str, object]:
    """Return what a timing depends on, as plain values: processor, instruction set, threads, GPU, versions.

    "instructions": those of FLAGS that the CPU has. "limits": variables of LIMITS that are set. "capability": the
    instruction set of torch's own kernels.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [torch.cuda.get_device_name(index) for index in range(count)]
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": _instructions(),
        "limits": {name: os.environ[name] for name in LIMITS if os.environ.get(name)},
        "threads": torch.get_num_threads(),
        "gpu": ", ".join(gpus),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda or "") if gpus else "",
        "bitfalcon": __version__,
        "versions": {name: version for name, version in versions.items() if version},
    }


def machine_line(facts: Mapping[str, object]) -> str:
    """Return the facts of `machine` as one line of text, for the notes of a table."""
    gpu = f"GPU {facts['gpu']}; " if facts.get("gpu") else ""
    instructions = ", ".join(facts.get("instructions", ())) or "instructions not known"
    limits = "".join(f", {name}={value}" for name, value in facts.get("limits", {}).items())
    packages = "".join(f", {name} {version}" for name, version in facts.get("versions", {}).items())
    return (
        f"{gpu}CPU {facts.get('cpu')}, {facts.get('capability')} ({instructions}{limits}), "
        f"{facts.get('threads')} of {facts.get('cores')} threads; torch {facts.get('torch')}{packages}, "
        f"bitfalcon {facts.get('bitfalcon')}, Python {facts.get('python')}, {facts.get('system')}"
    )


def _cpu_name() -> str:
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "not known"


def _instructions() -> list[str]:
    lines = [line.partition(":")[2].split() for line in _cpuinfo() if line.startswith(("flags", "Features"))]
    if lines:
        return [name for name in FLAGS if name in lines[0]]
    probes = {name: getattr(torch.cpu, probe, None) for name, probe in PROBES.items()}
    return [name for name, probe in probes.items() if probe is not None and probe()]


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return []


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


# name -> type of the numbers and memory layout
VARIANTS: Mapping[str, tuple[torch.dtype, torch.memory_format]] = {
    "fp32 NCHW": (torch.float32, torch.contiguous_format),
    "fp32 channels_last": (torch.float32, torch.channels_last),
    "bf16 channels_last": (torch.bfloat16, torch.channels_last),
}


def variants(
    model: Detector,
    imgsz: int | Sequence[int] = 640,
    batch: int = 1,
    device: torch.device | str = "cpu",
    names: Sequence[str] = tuple(VARIANTS),
) -> dict[str, Callable[[], Tensor]]:
    """Return functions by name that run a folded copy of the model, in one type and layout, on a batch of noise.

    imgsz: side or (height, width), rounded up to what the model takes. names: keys of VARIANTS. The functions return
    decoded predictions (batch, 4+nc, A). The model itself is not changed.
    """
    height, width = legal_size(imgsz, model.multiple)
    noise = torch.rand(batch, model.graph.channels, height, width, generator=torch.Generator().manual_seed(0))
    runs = {}
    for name in names:
        dtype, layout = VARIANTS[name]
        network = fold_for_inference(copy.deepcopy(model), torch.device(device), dtype, layout)
        images = noise.to(device, dtype).contiguous(memory_format=layout)
        runs[name] = partial(_run, network, images)
    return runs


@torch.inference_mode()
def _run(network: Detector, images: Tensor) -> Tensor:
    return network.decode(network(images))
