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
from ...config.notes import print_note


def compile_network(model: nn.Module, mode: bool | str = True, *, in_place: bool = True) -> nn.Module:
    """Let torch.compile compile a model at its next call. Return the model to call. mode: a bool or a mode's name.

    in_place: calls of `model` itself are compiled, and the code is kept in the cache folder for later processes.
    Otherwise a wrapper is returned, so that `model` itself goes on uncompiled, as in the validations of a training.
    """
    if not mode:
        return model
    name = "default" if mode is True else mode
    if not in_place:
        return torch.compile(model, mode=name)
    keep_compiled()
    model.compile(mode=name)
    model.warmed = {}
    return model


def keep_compiled() -> None:
    """Let torch.compile keep its code in the cache folder. Raises UserError where the folder cannot be written."""
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        folder = cache_dir() / "compiled"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"compile: what is compiled cannot be kept in '{folder}' ({error.strerror}). Give BITFALCON_CACHE "
                "a folder that can be written, or leave compile away."
            ) from error
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def warm(model: nn.Module, images: Tensor, note: Callable[[str], None] = print_note) -> float:
    """Compile a model for the shape of `images`. Return the seconds it took, 0.0 where there is nothing to compile.

    Where the compiler fails (it is missing, or cannot take a module) a note says so, and the model goes on uncompiled.
    """
    if getattr(model, "_compiled_call_impl", None) is None or (images.shape, images.dtype) in model.warmed:
        return 0.0
    start = time.perf_counter()
    # Otherwise torch warns of a CUDA that is missing, though nobody asked for it.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            model(images)
            model(images)  # CUDA graphs are recorded at the second call
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
    except Exception as error:  # whatever the compiler stumbles over, the plain model does the same
        model._compiled_call_impl = None
        model.how = model.how.replace("compiled", "not compiled")
        note(f"compile: {_first_line(error)}. Going on without compiling.")
        return time.perf_counter() - start
    seconds = model.warmed[images.shape, images.dtype] = time.perf_counter() - start
    note(f"compile: {seconds:.1f} s of warm-up for images of {'x'.join(map(str, images.shape))}")
    return seconds


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    about_compiler = (line for line in lines if "compiler" in line.lower() or "c++" in line.lower())
    reason = next(about_compiler, lines[0] if lines else "")
    return f"{type(error).__name__}: {reason[:200]}".rstrip(": .")
