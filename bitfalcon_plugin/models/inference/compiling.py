"""torch.compile: when a model goes through it, and where the compiled code is kept."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...config.errors import UserError
from ...config.files import cache_dir


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
            raise UserError(
                f"compile: what is compiled cannot be kept in '{folder}' ({error.strerror}). Give BITFALCON_CACHE a folder that can "
                "be written, or leave compile away."
            ) from error
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def warm(model: nn.Module, images: Tensor, say: Callable[[str], None] | None = None) -> float:
    """Before the first images of a shape, compile for it: returns the seconds that took, 0.0 where there is nothing to do.

    Where nothing can be compiled (no compiler, or a module it cannot take) that is said and the model goes on uncompiled.
    """
    if getattr(model, "_compiled_call_impl", None) is None or (images.shape, images.dtype) in model.warmed:
        return 0.0
    say = say or (lambda text: print(text, file=sys.stderr))
    start = time.perf_counter()
    logging.getLogger("torch.utils.cpp_extension").setLevel(
        logging.ERROR
    )  # else it tells of a CUDA that nobody asked for
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
    known = next(
        (line for line in lines if "compiler" in line.lower() or "c++" in line.lower()), lines[0] if lines else ""
    )
    return f"{type(error).__name__}: {known[:200]}".rstrip(": .")


def compiled_for_training(model: nn.Module, wanted: bool | str) -> nn.Module:
    """The model through torch.compile where compile= asks for it; weights and state stay the model's own."""
    if not wanted:
        return model
    return torch.compile(model, mode="default" if wanted is True else wanted)
