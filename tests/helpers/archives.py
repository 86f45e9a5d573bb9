"""TorchScript and pt2 archives with chosen code or operations, for tests of what is refused."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from bitfalcon_plugin.export.metadata import Metadata

MAIN = "x/code/__torch__.py"
ABOUT = Metadata({0: "a"}, 8, (16, 16)).texts()
CLASS = """class Hostile(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  _is_full_backward_hook : Optional[bool]
{more}  def forward(self: __torch__.Hostile,
    images: Tensor) -> Tensor:
{lines}    return torch.cat([torch.flatten(images, 2), torch.flatten(images, 2)], 1)
"""


class Hostile(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images


@lru_cache(1)  # torch gives a class another name the second time
def _plain() -> bytes:
    Hostile.__module__ = "__main__"
    buffer = io.BytesIO()
    torch.jit.save(
        torch.jit.trace(Hostile(), torch.rand(1, 3, 16, 16)), buffer, _extra_files={"config.txt": json.dumps(ABOUT)}
    )
    return buffer.getvalue()


def archive(
    path: Path,
    lines: str = "",
    more: str = "",
    rename: Callable[[str], str] = str,
    second: str | None = None,
    pickled: Callable[[bytes], bytes] = bytes,
    first: bool = True,
) -> Path:
    """An archive of TorchScript with `lines` in its forward. second: lines of another file of the same
    name, before or after it.
    """
    text = CLASS.format(more=more, lines=lines)
    with zipfile.ZipFile(io.BytesIO(_plain())) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            inside = name.partition("/")[2]
            if inside == "code/__torch__.py":
                texts = [text] if second is None else [text, CLASS.format(more="", lines=second)]
                for one in texts if first else texts[::-1]:
                    new.writestr(rename(MAIN), one)
            elif not inside.startswith("code/"):
                new.writestr(f"x/{inside}", pickled(old.read(name)) if inside == "data.pkl" else old.read(name))
    return path


def named(name: str, kind: str, value: object, keyword: bool = False) -> dict:
    return {"name": name, "arg": {kind: value}, "kind": 2 if keyword else 1}


def node(target: str, output: str, *inputs: dict) -> dict:
    return {
        "target": f"torch.ops.aten.{target}",
        "inputs": list(inputs),
        "outputs": [{"as_tensor": {"name": output}}],
        "metadata": {},
    }


def tensor(name: str, of: str = "self") -> dict:
    return named(of, "as_tensor", {"name": name})


def full(output: str, sizes: list[int], value: int, dtype: int = 5) -> dict:
    return node(
        "full.default",
        output,
        named("size", "as_ints", sizes),
        named("fill_value", "as_int", value),
        named("dtype", "as_scalar_type", dtype, True),
    )


def program(path: Path, *nodes: dict) -> Path:
    """A pt2 archive of these operations; its output is `out`, made of the input where none of them
    makes it.
    """
    made = [
        *nodes,
        node("flatten.using_ints", "flat", tensor("images"), named("start_dim", "as_int", 2)),
        node(
            "cat.default",
            "out",
            named("tensors", "as_tensors", [{"name": "flat"}, {"name": "flat"}]),
            named("dim", "as_int", 1),
        ),
    ]
    graph = {"nodes": made, "outputs": [{"as_tensor": {"name": "out"}}]}
    specs = [{"user_input": {"arg": {"as_tensor": {"name": "images"}}}}]
    text = json.dumps({"graph_module": {"graph": graph, "signature": {"input_specs": specs}}})
    about = json.dumps(ABOUT | {"names": "{0: 'a', 1: 'b'}"})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/models/model.json", text)
        archive.writestr("x/extra/config.txt", about)
    return path
