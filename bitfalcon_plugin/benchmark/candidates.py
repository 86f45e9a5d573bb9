"""The candidates of a benchmark: torch in its types and layouts, compiled or not, and every format of export."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..config.errors import UserError, did_you_mean
from ..config.files import size_of
from ..config.settings import Settings, load_settings
from ..export.formats import ALIASES, EXPORT_FORMATS, WRITABLE_FORMATS, ModelKind, find_format, model_kind, require
from ..export.kept_export import auto_export
from ..export.open import open_exported
from ..export.run import run_export
from ..export.runtimes.runtime import Runtime
from ..models.detector import Detector
from ..models.inference.compiling import keep_compiled
from ..models.inference.prepare import fold_for_inference, prepare_for_inference
from ..models.weights.foreign import open_checkpoint
from ..tasks import TASKS
from .timing import VARIANTS

TORCH, COMPILED, AUTO = "torch", "compile", "auto"
REFERENCE = "torch fp32 NCHW"  # the candidate that the others are compared with
PREDICT = "as predict runs it"  # variant of torch: the network that models.inference.prepare makes
# Types and layouts of torch. Only GPUs compute float16 fast.
TORCH_VARIANTS = {**VARIANTS, "fp16 channels_last": (torch.float16, torch.channels_last)}
PRECISIONS = {"half": "16 bits", "int8": "int8"}  # option of export -> name of the precision


@dataclass(frozen=True)
class Candidate:
    """One way to run the network.

    family: torch, compile, auto (what engine=auto chooses) or a format of export. path: the file that is opened, ""
    until there is one. variant: of torch, PREDICT or a key of TORCH_VARIANTS. options: half or int8, of export.
    """

    name: str
    family: str
    precision: str
    path: str = ""
    variant: str = ""
    options: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """The size of the file or folder."""
        return size_of(Path(self.path))


class Network:
    """A Detector in one type and layout, called and decoded like the runtime of an exported model."""

    suppressed, fixed, batch = False, None, None

    def __init__(self, model: Detector, device: torch.device, dtype: torch.dtype, layout: torch.memory_format):
        self.model = fold_for_inference(model, device, dtype, layout)
        self.names, self.nc, self.multiple, self.layout = self.model.names, self.model.nc, self.model.multiple, layout
        self.task, self.keypoints = self.model.task, self.model.keypoints
        self._run: Callable[[Tensor], object] = self._forward
        self.runtime = f"torch {torch.__version__}"

    def compile(self) -> Network:
        """Compile the network and its decoding, for batches of one shape; returns itself."""
        keep_compiled()
        self._run = torch.compile(self._forward, dynamic=False)
        return self

    def _forward(self, images: Tensor) -> dict[str, Tensor]:
        raw = self.model(images)
        return {"candidates": self.model.decode(raw), **{name: raw[name] for name in TASKS[self.task].maps}}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Return the decoded candidates of images (B, 3, H, W), and the maps of the task (see Runtime.__call__)."""
        weight = next(self.model.parameters())
        return self._run(images.to(weight.device, weight.dtype, memory_format=self.layout))

    def decode(self, raw: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the candidates: the call has decoded them already."""
        return raw["candidates"]

    def parameters(self) -> Iterator[Tensor]:
        """Return the parameters of the network."""
        return self.model.parameters()

    def eval(self) -> Network:
        """Return itself: it never trains."""
        return self


def list_candidates(settings: Settings, device: torch.device) -> list[Candidate]:
    """Return the candidates that format= names, by default all; the reference is the first, compiled ones are the last.

    format=: families with commas between. Raises UserError for another word.
    """
    families = _families(settings, device)
    candidates = []
    for variant, (dtype, layout) in TORCH_VARIANTS.items():
        if dtype is torch.float16 and device.type != "cuda":
            continue
        precision = str(dtype).removeprefix("torch.")
        if TORCH in families or f"{TORCH} {variant}" == REFERENCE:
            candidates.append(Candidate(f"{TORCH} {variant}", TORCH, precision, variant=variant))
        if COMPILED in families and layout is torch.channels_last:
            candidates.append(Candidate(f"{COMPILED} {variant}", COMPILED, precision, variant=variant))
    if TORCH in families:
        candidates.append(Candidate(f"{TORCH} {PREDICT}", TORCH, "float32", variant=PREDICT))
    if AUTO in families:
        candidates.append(Candidate("engine=auto", AUTO, "float32", variant=PREDICT))
    for name in WRITABLE_FORMATS:
        if name in families:
            candidates.append(Candidate(name, name, "float32"))
            for option, precision in PRECISIONS.items():
                if option in EXPORT_FORMATS[name].options:
                    candidates.append(Candidate(f"{name} {precision}", name, precision, options=(option,)))
    return sorted(candidates, key=lambda candidate: candidate.family == COMPILED)  # compiling takes the longest


def families_on(device: torch.device) -> tuple[str, ...]:
    """The families of candidates that this machine runs on a device."""
    rows = {name: EXPORT_FORMATS[name] for name in WRITABLE_FORMATS}
    formats = (name for name, row in rows.items() if row.is_run_here and (device.type == "cuda" or not row.needs_gpu))
    return TORCH, COMPILED, AUTO, *formats


def _families(settings: Settings, device: torch.device) -> set[str]:
    known = families_on(device)
    if "format" not in settings.given:
        return set(known)
    words = [word.strip(" .'\"").lower() for word in settings.format.strip("[]() ").split(",")]
    for word in words:
        if word not in (*known, *EXPORT_FORMATS, *ALIASES):
            expected = f"benchmark knows {', '.join(known)}, several with commas between"
            raise UserError(f"format={word}: {expected}.{did_you_mean(word, known)}")
    return {word if word in (TORCH, COMPILED, AUTO) else find_format(word) for word in words}


def with_file(
    candidate: Candidate, weights: Path, origin: Path, model: Detector, settings: Settings, device: torch.device
) -> Candidate:
    """Return the candidate with its file: the weights, an export of them that lies beside `origin`, or a new export.

    For engine=auto it is the export that is kept for it, where torch does not compute.

    weights: a checkpoint in a folder into which exports may be written. origin: the file that the weights are from.
    Raises what export raises, and UserError for a missing package.
    """
    if candidate.family in (TORCH, COMPILED):
        return replace(candidate, path=str(weights))
    if candidate.family == AUTO:
        return replace(candidate, path=str(auto_export(model, str(origin), str(device)) or weights))
    if reason := EXPORT_FORMATS[candidate.family].not_here:
        raise UserError(f"format={candidate.family}: its files are {reason}")
    require(candidate.family)
    suffix = EXPORT_FORMATS[candidate.family].suffix
    existing = origin.with_name(f"{origin.stem}{suffix}")
    if existing.exists() and origin.is_file() and _is_current(existing, origin, candidate, settings, device):
        return replace(candidate, path=str(existing))
    target = weights.parent / f"{'-'.join((weights.stem, str(settings.batch), *candidate.options))}{suffix}"
    export = {"mode": "export", "format": candidate.family, "imgsz": settings.imgsz, "batch": settings.batch}
    export |= {"out": str(target), **dict.fromkeys(candidate.options, True)}
    if EXPORT_FORMATS[candidate.family].needs_gpu:
        export["device"] = str(device)
    if settings.data is not None:
        export |= {"data": settings.data, "allow_outside": settings.allow_outside}
    run_export(model, load_settings(export), str(weights), given=())  # benchmark measures, not export
    return replace(candidate, path=str(target))


def _is_current(exported: Path, origin: Path, candidate: Candidate, settings: Settings, device: torch.device) -> bool:
    """Whether an export is not older than the weights, and of the size, batch and precision of the benchmark."""
    size = (settings.imgsz,) * 2 if isinstance(settings.imgsz, int) else tuple(settings.imgsz)
    try:
        runtime = open_exported(exported, str(device) if EXPORT_FORMATS[candidate.family].needs_gpu else "cpu")
    except UserError:
        return False
    options = runtime.about.args
    return (
        all(bool(options.get(option)) == (option in candidate.options) for option in PRECISIONS)
        and not runtime.suppressed
        and exported.stat().st_mtime >= origin.stat().st_mtime
        and runtime.fixed == size
        and runtime.batch == settings.batch
    )


def open_candidate(candidate: Candidate, device: torch.device) -> Network | Runtime:
    """Open the file of a candidate, ready to be called."""
    if model_kind(candidate.path) is ModelKind.EXPORTED:
        return open_exported(candidate.path, str(device), half="half" in candidate.options)
    model = open_checkpoint(candidate.path).model()
    if candidate.variant == PREDICT:
        return Network(prepare_for_inference(model, device), device, torch.float32, torch.channels_last)
    network = Network(model, device, *TORCH_VARIANTS[candidate.variant])
    return network.compile() if candidate.family == COMPILED else network
