"""Small files that look like other makers' checkpoints, made by the tests themselves.

The classes are throw-away ones under the makers' names, in modules that exist only while a file is written: nothing of
the real packages is imported or needed.
"""

from __future__ import annotations

import contextlib
import io
import sys
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from bitfalcon_plugin.compat.reader import read
from torch import Tensor, nn

from bitfalcon_plugin.config.errors import UserError

CLASSES = {
    "ultralytics.nn.tasks": ("DetectionModel", "SegmentationModel", "ClassificationModel"),
    "ultralytics.nn.modules.conv": ("Conv", "DWConv", "Concat"),
    "ultralytics.nn.modules.block": ("A2C2f", "C3k2", "Part"),
    "ultralytics.nn.modules.head": ("Detect",),
    "ultralytics.data.augment": ("CenterCrop", "ToTensor"),
    "ultralytics.yolo.data.augment": ("CenterCrop", "ToTensor"),
    "ultralytics.models.yolo.model": ("YOLO",),
    "models.yolo": ("Model",),
}
ROOT = "ultralytics.nn.tasks.DetectionModel"


@contextlib.contextmanager
def package() -> Iterator[Callable[[str], type[nn.Module]]]:
    """The fake packages, importable until the end; gives a function: full name -> class."""
    made: dict[str, types.ModuleType] = {}
    for module, names in {**CLASSES, "ultralytics.utils": ()}.items():
        parts = module.split(".")
        for depth in range(1, len(parts) + 1):
            made.setdefault(".".join(parts[:depth]), types.ModuleType(".".join(parts[:depth])))
        for name in names:
            setattr(made[module], name, type(name, (nn.Module,), {"__module__": module}))
    made["ultralytics.utils"].IterableSimpleNamespace = type(
        "IterableSimpleNamespace", (types.SimpleNamespace,), {"__module__": "ultralytics.utils"}
    )
    before = {name: sys.modules.pop(name) for name in made if name in sys.modules}
    sys.modules.update(made)
    try:
        yield lambda full: getattr(made[full.rpartition(".")[0]], full.rpartition(".")[2])
    finally:
        for name in made:
            del sys.modules[name]
        sys.modules.update(before)


def small_state(half: bool = True) -> dict[str, Tensor]:
    """Two rows: a convolution with batch norm, and one with a bias; made from a fixed seed."""
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "model.0.conv.weight": (4, 3, 3, 3),
        "model.0.bn.weight": (4,),
        "model.0.bn.bias": (4,),
        "model.0.bn.running_mean": (4,),
        "model.0.bn.running_var": (4,),
        "model.0.bn.num_batches_tracked": (),
        "model.1.cv1.weight": (2, 4, 1, 1),
        "model.1.cv1.bias": (2,),
    }
    state = {key: torch.rand(shape, generator=draw) for key, shape in shapes.items()}
    state = {key: tensor.half() if half else tensor for key, tensor in state.items()}
    return {**state, "model.0.bn.num_batches_tracked": torch.tensor(7)}


def tree(
    state: Mapping[str, Tensor],
    cls: Callable[[str], type[nn.Module]],
    *,
    root: str = ROOT,
    eps: float = 1e-3,
    momentum: float = 0.03,
) -> nn.Module:
    """A module tree whose state_dict is `state`, in its order: batch norms are real, lists of rows nn.Sequential."""
    top = cls(root)()
    for key, tensor in state.items():
        *path, leaf = key.split(".")
        module = top
        for depth, part in enumerate(path, 1):
            if part not in module._modules:
                inner = _module(state, ".".join(path[:depth]) + ".", cls)
                if isinstance(inner, nn.BatchNorm2d):
                    inner.eps, inner.momentum = eps, momentum
                module.add_module(part, inner)
            module = module._modules[part]
        if leaf.startswith(("running_", "num_batches")):
            module.register_buffer(leaf, tensor)
        else:
            module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    return top.eval()


def _module(state: Mapping[str, Tensor], path: str, cls: Callable[[str], type[nn.Module]]) -> nn.Module:
    if path + "running_var" in state:
        return nn.BatchNorm2d(len(state[path + "running_var"]))
    below = [key[len(path) :] for key in state if key.startswith(path)]
    if all(key.split(".")[0].isdigit() for key in below):
        return nn.Sequential()
    return cls("ultralytics.nn.modules.conv.Conv" if "conv.weight" in below else "ultralytics.nn.modules.block.Part")()


def write(
    path: Path,
    state: Mapping[str, Tensor] | None = None,
    *,
    root: str = ROOT,
    attributes: Mapping[str, object] | None = None,
    wrap: Callable | None = None,
    eps: float = 1e-3,
    momentum: float = 0.03,
    save: Mapping[str, object] | None = None,
    **entries: object,
) -> Path:
    """A stripped checkpoint with a pickled model of `state`. attributes: the model's own; entries: the file's.

    wrap: called with (model, cls), gives what is saved in place of {"model": model, **entries}.
    """
    with package() as cls:
        model = tree(small_state() if state is None else state, cls, root=root, eps=eps, momentum=momentum)
        for name, value in (attributes or {}).items():
            setattr(model, name, value)
        content = wrap(model, cls) if wrap else {"epoch": -1, "model": model, "ema": None, "optimizer": None, **entries}
        torch.save(content, path, **(save or {}))
    return path


def members(path: Path) -> dict[str, bytes]:
    """An archive's members, in order."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path: Path, content: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """An archive of these members."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def with_pickle(path: Path, pickle: bytes, records: Mapping[str, bytes] | None = None) -> Path:
    """An archive like torch.save's around a hand-made pickle and the storages it refers to."""
    data = {f"x/data/{key}": value for key, value in (records or {}).items()}
    return write_members(path, {"x/data.pkl": pickle, "x/byteorder": b"little", **data, "x/version": b"3\n"})


def pickled(value: object) -> bytes:
    """A value in the format of torch.save, to be put into other pickles: without the first and last instruction."""
    file = io.BytesIO()
    torch.save(value, file)
    with zipfile.ZipFile(file) as archive:
        return archive.read("archive/data.pkl")[2:-1]


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(UserError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text and len(text) < 700, text
    return text
