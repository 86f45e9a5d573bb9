"""What `benchmark` lets run against each other: torch in its layouts, types and compiled, and every format of export.

Each is tried in a process of its own first: that tells how long it takes from nothing to the first image and how much memory it
takes, and one that crashes takes nobody along.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..config.errors import UserError, did_you_mean
from ..config.files import size_of
from ..config.settings import Settings, load_settings
from ..export.formats import EXPORT_FORMATS, VALIDATED, find_format, require
from ..export.open import open_exported
from ..export.run import run_export
from ..export.runtimes.runtime import Runtime
from ..models.detector import Detector
from ..models.inference.compiling import keep_compiled
from ..models.inference.prepare import prepared
from ..models.weights.foreign import load_any
from ..train.launch import script_left_out
from .timing import VARIANTS

try:
    import resource
except ImportError:  # Windows
    resource = None

TORCH, COMPILED = "torch", "compile"
REFERENCE = "torch fp32 NCHW"  # what the others are compared with
USUAL = "as predict runs it"  # variant of torch: what quick.prepared makes of the model
PRECISIONS = {"half": "16 bits", "int8": "int8"}  # option of export -> what it is called
LIMITS = {COMPILED: 900.0}  # seconds until a contender must have run its first images
LIMIT, GRACE = 300.0, 20.0


@dataclass(frozen=True)
class Contender:
    """One way to run the network. family: torch, compile or a format of export. path: the file that it opens, "" until there is one.

    variant: of timing.VARIANTS, USUAL, and "fp16 channels_last". options: half or int8 of the export.
    """

    name: str
    family: str
    precision: str
    path: str = ""
    variant: str = ""
    options: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of the file or folder."""
        return size_of(Path(self.path))


@dataclass(frozen=True)
class Trial:
    """What a contender did in a process of its own. ready, load, first, again: seconds until torch was imported, of opening the file,
    of the first images and of the same again. memory: most bytes of the whole process; gpu: bytes it took on the GPU, 0 without."""

    ready: float
    load: float
    first: float
    again: float
    memory: int
    gpu: int = 0


class Network:
    """A Detector in a type and a layout, called and decoded as an engine is; compiled, where that is wanted."""

    suppressed, fixed, batch = False, None, None

    def __init__(
        self, model: Detector, device: torch.device, dtype: torch.dtype, layout: torch.memory_format, compiled: bool
    ):
        self.model = model.eval().fuse().requires_grad_(False).to(device, dtype, memory_format=layout)
        self.names, self.nc, self.multiple, self.layout = self.model.names, self.model.nc, self.model.multiple, layout
        if compiled:
            keep_compiled()
        self._run: Callable[[Tensor], object] = torch.compile(self._whole, dynamic=False) if compiled else self._whole
        self.runtime = f"torch {torch.__version__}"

    def _whole(self, images: Tensor) -> Tensor:
        return self.model.decode(self.model(images))

    def __call__(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> decoded predictions."""
        weight = next(self.model.parameters())
        return self._run(images.to(weight.device, weight.dtype, memory_format=self.layout))

    def decode(self, raw: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Nothing is left to do."""
        return raw

    def parameters(self) -> Iterator[Tensor]:
        """Of the network."""
        return self.model.parameters()

    def eval(self) -> Network:
        """Itself."""
        return self


def contenders(settings: Settings, device: torch.device) -> list[Contender]:
    """All that is to run, the reference first. Raises UserError for a format= that there is not.

    format=: words with commas between, of torch, compile and the formats of export; without it, everything.
    """
    wanted = _families(settings)
    found = []
    kinds = {
        **VARIANTS,
        **({"fp16 channels_last": (torch.float16, torch.channels_last)} if device.type == "cuda" else {}),
    }
    for variant, (dtype, layout) in kinds.items():
        precision = str(dtype).removeprefix("torch.")
        if TORCH in wanted or f"{TORCH} {variant}" == REFERENCE:
            found.append(Contender(f"{TORCH} {variant}", TORCH, precision, variant=variant))
        if COMPILED in wanted and layout is torch.channels_last:
            found.append(Contender(f"{COMPILED} {variant}", COMPILED, precision, variant=variant))
    if TORCH in wanted:
        found.append(Contender(f"{TORCH} {USUAL}", TORCH, "float32", variant=USUAL))
    for format_, row in EXPORT_FORMATS.items():
        if format_ in wanted and row.status == VALIDATED:
            found.append(Contender(format_, format_, "float32"))
            found += [
                Contender(f"{format_} {told}", format_, told, options=(option,))
                for option, told in PRECISIONS.items()
                if option in row.options
            ]
    return sorted(found, key=lambda one: one.family == COMPILED)  # the slowest to get ready last


def _families(settings: Settings) -> set[str]:
    known = [TORCH, COMPILED, *(name for name, row in EXPORT_FORMATS.items() if row.status == VALIDATED)]
    if "format" not in settings.given:
        return set(known)
    found = set()
    for word in settings.format.strip("[]() ").split(","):
        word = word.strip(" '\"").lower()
        if word not in (TORCH, COMPILED):
            try:
                word = find_format(word)
            except UserError as error:
                if "there is no such format" in str(error):
                    raise UserError(
                        f"format={word}: benchmark knows {', '.join(known)}, several with commas between."
                        f"{did_you_mean(word, known)}"
                    ) from error
                raise
        found.add(word)
    return found


def provided(
    one: Contender, weights: Path, origin: Path, model: Detector, settings: Settings, device: torch.device
) -> Contender:
    """The contender with its file: the weights, an export that lies beside them (`origin`) and is theirs, or one that is made now.

    weights: a checkpoint in a folder where exports may be written. Raises what export raises, UserError for a missing package.
    """
    if one.family in (TORCH, COMPILED):
        return replace(one, path=str(weights))
    require(one.family)
    suffix = EXPORT_FORMATS[one.family].suffix
    beside = origin.with_name(f"{origin.stem}{suffix}")
    if beside.exists() and origin.is_file() and _is_of(beside, origin, one, settings):
        return replace(one, path=str(beside))
    out = weights.parent / f"{'-'.join((weights.stem, *one.options))}{suffix}"
    wanted = {
        "mode": "export",
        "format": one.family,
        "imgsz": settings.imgsz,
        "batch": settings.batch,
        "out": str(out),
        **dict.fromkeys(one.options, True),
    }
    if settings.data is not None:
        wanted |= {"data": settings.data, "allow_outside": settings.allow_outside}
    run_export(model, load_settings(wanted), str(weights))
    return replace(one, path=str(out))


def _is_of(beside: Path, origin: Path, one: Contender, settings: Settings) -> bool:
    # Whether an export is not older than the weights, and of this size, batch and precision.
    sides = (settings.imgsz,) * 2 if isinstance(settings.imgsz, int) else tuple(settings.imgsz)
    try:
        engine = open_exported(beside, "cpu")
    except UserError:
        return False
    args = engine.about.args
    same = all(bool(args.get(option)) == (option in one.options) for option in PRECISIONS) and not engine.suppressed
    return (
        same
        and beside.stat().st_mtime >= origin.stat().st_mtime
        and engine.fixed == sides
        and engine.batch == settings.batch
    )


def opened(one: Contender, device: torch.device) -> Network | Runtime:
    """The contender, ready to be called."""
    if one.family not in (TORCH, COMPILED):
        return open_exported(one.path, str(device), half="half" in one.options)
    model = load_any(one.path).model()
    if one.variant == USUAL:
        return Network(prepared(model, device), device, torch.float32, torch.channels_last, False)
    dtype, layout = VARIANTS.get(one.variant, (torch.float16, torch.channels_last))
    return Network(model, device, dtype, layout, one.family == COMPILED)


def tried(one: Contender, shape: tuple[int, int, int, int], device: torch.device) -> Trial:
    """Run a contender in a process of its own. Raises UserError with the reason where it does not come through."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_try, args=(theirs, one, shape, str(device), torch.get_num_threads()), daemon=True)
    start, limit = time.perf_counter(), LIMITS.get(one.family, LIMIT)
    with script_left_out(False):
        process.start()
    theirs.close()
    found = None
    try:
        if not ours.poll(limit):
            raise UserError(f"not ready after {limit:.0f} s")
        ready = ours.recv() - _offset(start)
        if not ours.poll(limit):
            raise UserError(f"no image after {limit:.0f} s")
        found = ours.recv()
    except EOFError:
        process.join(10)
        raise UserError(f"its process ended with code {process.exitcode}") from None
    finally:
        process.join(GRACE if found is not None else 0)  # compilers tidy up behind them
        process.kill()
        process.join()
        ours.close()
    if isinstance(found, str):
        raise UserError(found)
    return Trial(ready=ready, **found)


def _offset(start: float) -> float:
    # A moment of perf_counter as seconds of the wall clock, which two processes share.
    return time.time() - (time.perf_counter() - start)


def _try(pipe, one: Contender, shape: tuple[int, int, int, int], device_name: str, count: int) -> None:
    # What the process does. What runtimes print is of no use here.
    pipe.send(time.time())
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                os.dup2(nowhere.fileno(), stream.fileno())
    torch.set_num_threads(count)
    device = torch.device(device_name)
    try:
        pipe.send(_measured(one, torch.rand(shape, generator=torch.Generator().manual_seed(0)), device))
    except BaseException as error:  # whatever a runtime raises is the reason that is told
        pipe.send(reason(error))


def _measured(one: Contender, images: Tensor, device: torch.device) -> dict[str, float]:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    moments = [time.perf_counter()]
    run = opened(one, device)
    moments.append(time.perf_counter())
    with torch.inference_mode():
        for _ in range(2):
            run.decode(run(images)).cpu()
            moments.append(time.perf_counter())
    load, first, again = (later - earlier for earlier, later in zip(moments, moments[1:]))
    taken = max(free - torch.cuda.mem_get_info(device)[0], 0) if device.type == "cuda" else 0
    return {"load": load, "first": first, "again": again, "memory": _most_memory(), "gpu": taken}


def _most_memory() -> int:
    """Bytes that this process took at most; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # getrusage would count what the parent took when this process was made
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        if found := [line.split()[1] for line in lines if line.startswith("VmHWM:")]:
            return int(found[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if resource else 0


def reason(error: BaseException) -> str:
    """Why a contender has no numbers, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if isinstance(error, UserError) else f"{type(error).__name__}: {text}")[:300]


def runs_of(engines: Mapping[str, Network | Runtime], images: Tensor) -> dict[str, Callable[[], object]]:
    """A callable for each engine: the images through the network, and decoded."""

    def run_of(engine: Network | Runtime) -> Callable[[], object]:
        own = images.to(next(engine.parameters()).device)
        return lambda: engine.decode(engine(own))

    return {name: run_of(engine) for name, engine in engines.items()}
