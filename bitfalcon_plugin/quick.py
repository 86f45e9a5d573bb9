"""How a model is made ready to predict and to be measured on a device: what is folded, packed, cast and compiled.

On a CPU each folded convolution and its activation become one oneDNN operator (the one that torch's own compiler emits),
with weights laid out once for each shape of the input. The arithmetic is that of the plain layers, to rounding.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import statistics
import sys
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import UserError
from .files import cache_dir
from .graph import Graph
from .modules.conv import Conv, SepConv7x7

SHAPES = 4  # input shapes for which a convolution keeps its weights laid out
GAIN = 1.15  # how much faster 16 bits must be on a CPU to be chosen
HEAP = 33_000_000  # bytes; the largest block that glibc keeps for the next use, once it has seen one returned (mallopt(3))
# Activation -> its name in the operator. A subclass may compute something else: only these very classes.
FUSED = {nn.SiLU: "swish", nn.ReLU: "relu", nn.Hardswish: "hardswish", nn.Identity: "none"}
# Numbers in the input up to which oneDNN takes longer to begin than others to finish (0.1 ms): torch's own loops, as torch itself
# chooses for single images, and a product of matrices for 1x1 convolutions of channels-last images.
FEW, SOME = 20_480, 200_000

OWN = (__package__ + ".", "torch.nn.modules.")
PLAIN = frozenset((int, float, bool, str, bytes, type(None), frozenset, Graph))  # values that nobody changes
EMPTY = frozenset((dict, OrderedDict, set, list, tuple))


class Packed(nn.Conv2d):
    """A convolution with the activation behind it, for inference on a CPU. State and attributes are the convolution's own.

    images (B, c_in, H, W) -> (B, c_out, H', W'). Where the operator cannot be used (a gradient is asked for, autocast, tracing,
    another type or device) the plain layers are.
    """

    @classmethod
    def of(cls, conv: nn.Conv2d, act: nn.Module) -> Packed:
        """conv's own tensors, and `act` after them. See `_packs` for what can be taken."""
        packed = cls.__new__(cls)
        packed.__dict__.update(conv.__dict__)
        packed._parameters, packed._buffers, packed._modules = dict(conv._parameters), dict(conv._buffers), {}
        packed.after, packed._laid, packed._seen = act, OrderedDict(), ()
        packed._options = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        packed._loops = FEW if conv.groups == 1 and max(conv.kernel_size) <= 3 else 0
        single = (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
        packed._products = SOME if single and conv.weight.dtype == torch.float32 and torch.backends.mkl.is_available() else 0
        return packed

    def forward(self, x: Tensor) -> Tensor:
        if not self._usable(x):
            return self.after(super().forward(x))
        if (count := x.numel()) <= self._products and (rows := x.permute(0, 2, 3, 1)).is_contiguous():
            return self._after(functional.linear(rows, self._parameters["weight"].flatten(1), self._parameters["bias"])).permute(0, 3, 1, 2)
        if count <= self._loops and len(x) == 1:
            return self._after(super().forward(x))
        return _operator()(x, self._weights(x.shape), self._parameters["bias"], *self._options, FUSED[type(self.after)], [], "")

    def _after(self, y: Tensor) -> Tensor:
        return functional.silu(y, inplace=True) if type(self.after) is nn.SiLU else self.after(y)

    def _usable(self, x: Tensor) -> bool:
        weight = self._parameters["weight"]
        if not x.is_cpu or x.dtype != weight.dtype or x.dtype not in (torch.float32, torch.bfloat16) or not x.numel():
            return False
        if not torch.is_inference_mode_enabled() and torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            return False
        if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        return type(x) in (Tensor, nn.Parameter)

    def _weights(self, shape: torch.Size) -> Tensor:
        # At the first sight of a shape as they are: the operator then lays them out itself, for this call. At the second
        # sight they are kept so. The result is the same bit for bit. Threads may come here at once: nothing is half done.
        laid = self._laid.get(shape)
        if laid is not None:
            return laid
        if shape not in self._seen:
            self._seen = (*self._seen[1 - SHAPES:], shape)
            return self.weight
        if shape[0] > 1:
            _keep_memory()
        laid = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self._options, list(shape))
        kept = OrderedDict(self._laid)
        kept[shape] = laid
        while len(kept) > SHAPES:
            kept.popitem(last=False)
        self._laid = kept
        return laid

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Packed:
        self._laid, self._seen = OrderedDict(), ()
        return super()._apply(function, recurse)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_laid": OrderedDict(), "_seen": ()}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {type(self.after).__name__}"


def prepared(model: nn.Module, device: torch.device, *, half: bool = False, compiling: bool | str = False) -> nn.Module:
    """A copy of a model, folded and as quick as this device makes it; its attribute `how` says in words what was chosen.

    half: 16-bit weights where the device gains by them, see `half_type`. compiling: through torch.compile, in this mode where it
    is a word; the first images of a shape then take long, see `warm`.
    """
    ready = copied(model).eval().requires_grad_(False).fuse()
    kind = half_type(device)[0] if half and not _has_codes(ready) else None
    ready = ready.to(device, memory_format=torch.channels_last if _channels_last(device) else torch.preserve_format)
    ready = ready if kind is None else ready.to(kind)
    weight = next(ready.parameters())
    words = [str(weight.dtype).removeprefix("torch."), "folded", *(["channels last"] if _channels_last(device) else [])]
    if compiling:
        words.append("compiled")
        compiled(ready, compiling)
    elif device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16) and operator_works(weight.dtype):
        if count := pack(ready):
            words.append(f"{count} convolutions with their activations in one step")
            shorten(ready)
    ready.how = f"{', '.join(words)} on {device}" + (f", {torch.get_num_threads()} threads" if device.type == "cpu" else "")
    return ready


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of a model, in a fifth of the time for modules of ours and torch's: those hold values beside what is registered."""
    return _copied(model, {})


def _copied(module: nn.Module, memo: dict[int, object]) -> nn.Module:
    if id(module) in memo:
        return memo[id(module)]
    kind = type(module)
    if not kind.__module__.startswith(OWN) or hasattr(kind, "__deepcopy__"):
        return copy.deepcopy(module, memo)
    memo[id(module)] = twin = kind.__new__(kind)
    known = twin.__dict__
    told = any("__getstate__" in vars(base) for base in kind.__mro__[:-1])  # says what of it can be copied
    for name, value in (module.__getstate__() if told else vars(module)).items():
        if type(value) in PLAIN:
            known[name] = value
        elif name == "_modules":
            known[name] = {key: None if child is None else _copied(child, memo) for key, child in value.items()}
        elif name in ("_parameters", "_buffers"):
            known[name] = {key: None if tensor is None else _copied_tensor(tensor, memo) for key, tensor in value.items()}
        elif type(value) in EMPTY and not value:
            known[name] = type(value)()
        elif type(value) is tuple and all(type(item) in PLAIN for item in value):
            known[name] = value
        else:
            known[name] = copy.deepcopy(value, memo)
    return twin


def _copied_tensor(tensor: Tensor, memo: dict[int, object]) -> Tensor:
    if id(tensor) not in memo:
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.is_leaf and tensor.grad is None
        twin = copy.deepcopy(tensor, memo) if not plain else tensor.detach().clone()
        memo[id(tensor)] = nn.Parameter(twin, tensor.requires_grad) if plain and isinstance(tensor, nn.Parameter) else twin
    return memo[id(tensor)]


def pack(model: nn.Module) -> int:
    """Replace every folded convolution that can be by a Packed one, in place; returns how many."""
    count = 0
    for block in list(model.modules()):
        if isinstance(block, (Conv, SepConv7x7)) and isinstance(block.bn, nn.Identity) and not _hooked(block.act):
            name = "conv" if isinstance(block, Conv) else "pointwise"
            act = block.act if type(block.act) in FUSED else nn.Identity()
            if _packs(conv := getattr(block, name)):
                setattr(block, name, Packed.of(conv, act))
                block.act = nn.Identity() if act is block.act else block.act
                count += 1
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and _packs(child):
                parent._modules[name] = Packed.of(child, nn.Identity())
                count += 1
    return count


def shorten(model: nn.Module) -> None:
    """Let each block of which only the convolution is left give way to that, in place: three calls fewer, and other names."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, Conv) and type(child).forward is Conv.forward and not any(map(_hooked, (child, child.bn, child.act))):
                if isinstance(child.bn, nn.Identity) and isinstance(child.act, nn.Identity):
                    parent._modules[name] = child.conv


def _packs(conv: nn.Module) -> bool:
    return (type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and not isinstance(conv.padding, str) and not _hooked(conv)
            and not conv.weight.requires_grad)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _has_codes(model: nn.Module) -> bool:
    # Layers of few bits have scales that must keep their digits.
    return any(hasattr(module, "quantise") for module in model.modules())


def _channels_last(device: torch.device) -> bool:
    # Where convolutions are oneDNN's or cuDNN's. Others copy such maps, or are made for the other order.
    return device.type == "cuda" or device.type == "cpu" and torch.backends.mkldnn.is_available()


def _operator() -> Callable[..., Tensor]:
    return torch.ops.mkldnn._convolution_pointwise.default


@lru_cache(4)
def operator_works(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this torch has oneDNN's fused convolution, and it computes here what the plain layers do (tried once)."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        conv, x = _trial(8, 16, 9, dtype)
        try:
            packed = Packed.of(conv, nn.SiLU())
            found = [packed(x).float() for _ in range(3)]  # with weights as they are, and laid out
            expected = functional.silu(conv(x)).float()
        except (RuntimeError, AttributeError, NotImplementedError):
            return False
    tolerance = 1e-4 if dtype is torch.float32 else 0.1
    return all(torch.allclose(result, expected, atol=tolerance, rtol=tolerance) for result in found)


def _trial(c_in: int, c_out: int, side: int, dtype: torch.dtype) -> tuple[nn.Conv2d, Tensor]:
    # A 3x3 convolution and what it takes, without drawing from the caller's random numbers.
    def ramp(*shape: int) -> Tensor:
        return torch.linspace(-1, 1, math.prod(shape)).view(shape).to(dtype)

    with torch.random.fork_rng(devices=[]):
        conv = nn.Conv2d(c_in, c_out, 3, padding=1).requires_grad_(False).to(dtype)
    conv.weight.copy_(ramp(c_out, c_in, 3, 3) / c_in)
    conv.bias.copy_(ramp(c_out))
    return conv, ramp(2, c_in, side, side).contiguous(memory_format=torch.channels_last)


@lru_cache(8)
def half_type(device: torch.device) -> tuple[torch.dtype | None, str]:
    """The 16-bit type that half=True means on a device, and why; None where 32 bits are quicker.

    CUDA: float16. A CPU: bfloat16 where a convolution, tried once, is faster in it.
    """
    if device.type == "cuda":
        return torch.float16, "float16"
    if device.type != "cpu":
        return None, f"{device.type} gains nothing by it; this device goes on in 32 bits"
    if not operator_works(torch.float32) or not operator_works(torch.bfloat16):
        return None, "this CPU has no instructions for it; this device goes on in 32 bits"
    ratio = _bfloat16_gain()
    if ratio >= GAIN:
        return torch.bfloat16, f"bfloat16, in which a convolution is {ratio:.1f} times as fast here"
    return None, (f"a convolution in bfloat16 is {ratio:.2g} times as fast as in float32 on this CPU, which has no good instructions for it; "
                  "this device goes on in 32 bits")


def why_not_half(model: nn.Module) -> str:
    """Why a model that was asked to take 16 bits does not, for a note; "" where it does."""
    weight = next(model.parameters())
    if weight.is_cuda or weight.dtype.itemsize == 2:
        return ""
    return half_type(weight.device)[1] if not _has_codes(model) else "layers of codes keep their scales in float32; this model goes on in 32 bits"


def _bfloat16_gain(rounds: int = 5) -> float:
    """Time of a usual convolution in float32 over that in bfloat16, rounds taken in turn; a hundredth of a second."""
    spent: list[list[float]] = [[], []]
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        tried = (_trial(64, 64, 40, dtype) for dtype in (torch.float32, torch.bfloat16))
        runs = [(Packed.of(conv, nn.SiLU()), images) for conv, images in tried]
        for _ in range(rounds + 2):  # two to lay the weights out
            for (layer, pixels), times in zip(runs, spent, strict=True):
                start = time.perf_counter()
                layer(pixels)
                times.append(time.perf_counter() - start)
    whole, half = (statistics.median(times[2:]) for times in spent)
    return whole / half


@lru_cache(1)
def _keep_memory() -> None:
    """Let the C library of Linux keep what a batch's maps took for the next batch, instead of asking the system again.

    Returned to the system each time, pages cost a fifth of the time of a small network at batch=4 (34,000 faults a batch;
    one image has none). glibc raises its limits by itself to the largest block that it has seen come back, so one is taken
    and given back; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        torch.empty(HEAP, dtype=torch.uint8)


def compiled(model: nn.Module, mode: bool | str = True) -> nn.Module:
    """Set a model to be compiled at its next call, in place; what is compiled is kept in the cache folder for later processes."""
    keep_compiled()
    model.compile(mode="default" if mode is True else mode)
    model.warmed = {}
    return model


def keep_compiled() -> None:
    """Let what torch.compile makes go to the cache folder. UserError where that cannot be written."""
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        folder = cache_dir() / "compiled"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"compile: what is compiled cannot be kept in '{folder}' ({error.strerror}). Give BITFALCON_CACHE a folder that can "
                            "be written, or leave compile away.") from error
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def warm(model: nn.Module, images: Tensor, say: Callable[[str], None] | None = None) -> float:
    """Before the first images of a shape, compile for it: returns the seconds that took, 0.0 where there is nothing to do.

    Where nothing can be compiled (no compiler, or a module it cannot take) that is said and the model goes on uncompiled.
    """
    if getattr(model, "_compiled_call_impl", None) is None or (images.shape, images.dtype) in model.warmed:
        return 0.0
    say = say or (lambda text: print(text, file=sys.stderr))
    start = time.perf_counter()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # else it tells of a CUDA that nobody asked for
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            model(images)
            model(images)  # CUDA graphs are recorded at the second call
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
    except Exception as error:  # whatever the compiler stumbles over, the plain model does the same
        model._compiled_call_impl = None
        model.how = getattr(model, "how", "").replace("compiled", "not compiled")
        say(f"note: compile: {_first_line(error)}. Going on without compiling.")
        return time.perf_counter() - start
    seconds = model.warmed[images.shape, images.dtype] = time.perf_counter() - start
    say(f"compile: {seconds:.1f} s of warm-up for images of {'x'.join(map(str, images.shape))}")
    return seconds


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    known = next((line for line in lines if "compiler" in line.lower() or "c++" in line.lower()), lines[0] if lines else "")
    return f"{type(error).__name__}: {known[:200]}".rstrip(": .")
