"""Checkpoints with broken graphs and weights, made from whole ones: each seed gives one, always the same.

The mutations know the structure: rows of a graph, their arguments, names of modules, keys and shapes of tensors, and
what a file says beside its weights. Nothing here is meant to open; what matters is how it is refused.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.build import read_graph, resolve_graph, state_shapes
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.modules import BUILT_IN, lookup
from bitfalcon_plugin.models.modules.library_names import library_names
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, content_of
from tests.helpers.foreign import write as write_foreign

SMALL = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]]
BASES = {
    "detect": {
        "nc": 2,
        "backbone": [*SMALL, [-1, 2, "C3k2", [32, False, 0.25]], [-1, 1, "Conv", [32, 3, 2]]],
        "head": [
            [-1, 2, "A2C2f", [64, True, 1]],
            [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
            [[-1, 2], 1, "Concat", [1]],
            [-1, 1, "C2f", [16, True]],
            [[7, 4], 1, "Detect", ["nc"]],
        ],
    },
    "segment": {"nc": 1, "backbone": SMALL, "head": [[[0, 1], 1, "Segment", ["nc", 8, 16]]]},
    "pose": {"nc": 1, "kpt_shape": [3, 3], "backbone": SMALL, "head": [[[1], 1, "Pose", ["nc", "kpt_shape"]]]},
    "obb": {"nc": 3, "scales": {"n": [1, 1, 64]}, "backbone": SMALL, "head": [[[0, 1], 1, "OBB", ["nc", 1]]]},
    "classify": {"nc": 4, "activation": "nn.ReLU()", "backbone": SMALL, "head": [[-1, 1, "Classify", ["nc"]]]},
}
TEXTS = ("", "x" * 5000, "nc", "None", "\x1b[2J", "\x00", "../..", "nn.ReLU", "nn.Softmax(dim=99)", "1e999", "[" * 90)
NUMBERS = (-1, 0, 1, 2, 3, 7, 99, 40_000, 10**6, 10**9, 10**18, 10**30, 10**400, 0.1, -0.5, 1.5)
NUMBERS += (1e308, float("nan"), float("inf"))
OTHERS = (None, True, False, [], [[]], {}, {"a": 1}, [1, 2], [-1, -1], ["nc"], [None, 2, "nearest"], [10**9, 10**9])
WHOLE = (1, 2, 3, 3, 4, 5, 8, 16, 16, 32, 1, 2, 64, 1000, 10**5, 0)
ACTIVATIONS = (
    "nn.Softmax(dim=99)",
    "nn.Threshold(0.1, 'a')",
    "nn.PReLU(7)",
    "nn.GLU()",
    "nn.RReLU(2, 1)",
    "nn.Hardtanh(1)",
)
KEYS = {
    "activation": (
        *ACTIVATIONS,
        "nn.MultiheadAttention(8, 2)",
        "nn.utils",
        "nn.LeakyReLU('x')",
        "nn.ReLU(inplace=True)",
    ),
    "scales": ({"n": [1, 1]}, {"n": [100, 100, 10**6]}, {"n": [0.001, 0.001, 1]}, {}, [1], {"": [1, 1]}, {1: [1, 1]}),
    "reg_max": (1, 2, 5, 10**5, "x", 0),
    "class_width": (1, 10**5, -1, "x"),
    "kpt_shape": ([17, 3], [0, 3], [10**9, 3], [10**5000, 3], [3, 2], "x", [True, 3], 5),
    "bit": (
        "head",
        "all",
        [{"parts": ["head"]}],
        [{"layers": ["model.0.conv"]}],
        [[]],
        {"x": 1},
        [{"layers": ["y"] * 99}],
    ),
    "ch": (1, 4, 10**5, 0, "x"),
    "names": ({0: "a"}, ["\x1b[2J"] * 2, {"0": "a", "1": "b"}, [[1], [2]], {0: "a", 5: "b"}),
    "nc": (0, 1, 10**5, 10**30, "x", None),
    "variant": ("turbo", "turbo-all-residual", "x", 3),
    "end2end": (True, "x"),
    "flip_idx": ([0, 1, 2], [5], 5),
    "neck": ([], [[-1, 1, "Conv", [16]]], "x"),
}
TENSORS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda tensor: tensor.flatten()[:1].squeeze(),
    lambda tensor: tensor.flatten(),
    lambda tensor: tensor[None],
    lambda tensor: tensor[:0] if tensor.ndim else tensor,
    lambda tensor: tensor.transpose(0, -1) if tensor.ndim > 1 else tensor.repeat(2) if tensor.ndim else tensor[None],
    lambda tensor: tensor.to(torch.int64),
    lambda tensor: tensor.to(torch.bool),
    lambda tensor: tensor.double() * float("nan"),
    lambda tensor: tensor.reshape(-1, 1, 1, 1, 1),
    lambda tensor: torch.zeros(0),
)


def mutated(seed: int) -> dict[str, object]:
    """Return the content of a checkpoint, for torch.save: of our format, or of another maker's (a state dict)."""
    draw = random.Random(seed)
    if draw.random() < 0.1:
        return {"model": mutated_state(draw, copy.copy(shipped_state(draw.choice(("yolov12", "yolo11", "yolov8")))))}
    task = draw.choice(list(BASES))
    content = copy.deepcopy(whole(task))
    part = draw.random()
    if part < 0.75:
        content["graph"]["document"] = mutated_document(draw, content["graph"]["document"])
    if part > 0.9:
        content["state"] = mutated_state(draw, content["state"])
    elif part > 0.6:
        mutate(draw, {key: value for key, value in content.items() if key != "state"}, into=content)
    if draw.random() < 0.7:
        _fit_weights(content)
    return content


def mutated_document(draw: random.Random, document: dict) -> dict:
    """Return a copy of a graph document with one to four changes."""
    document = copy.deepcopy(document)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        draw.choice((_change_row, _change_row, _change_row, _set_key, lambda draw, document: mutate(draw, document)))(
            draw, document
        )
    return document


def mutated_state(draw: random.Random, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of which some are renamed, removed, added, or have another shape or type."""
    state = dict(state)
    for _ in range(draw.choice((1, 1, 2, 5))):
        key = draw.choice(list(state))
        if draw.random() < 0.5:  # what tells the family, the size and the task
            marks = [
                name for name in state if ".6.m." in name or ".attn." in name or ".cv2.0.2." in name or "cv3" in name
            ]
            key = draw.choice(marks or [key])
        change = draw.randrange(5)
        if change == 0:
            prefix = key.rpartition(".")[0]
            for name in [name for name in state if name.startswith(prefix)]:
                del state[name]
        elif change == 1:
            state[key.replace("model.", draw.choice(("model.9", "module.", "x")), 1)] = state.pop(key)
        elif change == 2:
            state[key.replace(".m.", ".m.9.")] = state[key]
        else:
            state[key] = draw.choice(TENSORS)(state[key])
        if not state:
            return {"model.0.x": torch.zeros(1)}
    return state


def mutate(draw: random.Random, value: object, into: dict | None = None) -> None:
    """Change one entry somewhere inside of nested dicts and lists, in place. into: where the first step is taken."""
    top: object = value if into is None else {key: into[key] for key in value}
    places: list[tuple[object, object]] = []
    waiting = [into if into is not None else top]
    while waiting:
        item = waiting.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        for key in keys:
            if item is into and key not in value:
                continue
            places.append((item, key))
            if isinstance(item[key], (dict, list)):
                waiting.append(item[key])
    if not places:
        return
    parent, key = draw.choice(places)
    change = draw.randrange(8)
    if change == 0:
        del parent[key]
    elif change == 1 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif change == 2:
        parent[key] = _nested(draw.choice((3, 60, 2000)))
    else:
        parent[key] = copy.deepcopy(draw.choice((*TEXTS, *NUMBERS, *OTHERS)))


def _change_row(draw: random.Random, document: dict) -> None:
    part = document.get(draw.choice(("backbone", "backbone", "head")))
    if not isinstance(part, list) or not part:
        return
    index = draw.randrange(len(part))
    row = part[index]
    change = draw.randrange(7)
    if change == 0:
        part.insert(index, [draw.choice((-1, -2, 0, [-1], [-1, 0])), draw.choice((1, 2, 40)), *_module(draw)])
    elif not isinstance(row, list) or len(row) != 4:
        del part[index]
    elif change == 1:
        row[2:] = _module(draw)
    elif change == 2:
        row[2] = _module(draw)[0]
    elif change == 3 and isinstance(row[3], list) and row[3]:
        row[3][draw.randrange(len(row[3]))] = draw.choice((*NUMBERS, *TEXTS, *OTHERS))
    elif change == 4 and isinstance(row[3], list):
        row[3].append(draw.choice((*NUMBERS, *OTHERS)))
    elif change == 5:
        row[0] = draw.choice((-1, 0, 1, [-1, 0], [0, 1], [-1, -1, -1], -9))
    else:
        row[1] = draw.choice((1, 2, 0, 50, 1000, 10**6, 10**30, "x"))


def _module(draw: random.Random) -> list:
    """A module and arguments that may fit it."""
    name = draw.choice(sorted(BUILT_IN) if draw.random() < 0.4 else library_names())
    signature = lookup(name)
    known = [annotation for _, annotation in signature.parameters]
    count = draw.randint(signature.required, min(len(known), signature.required + 3))
    others = (1, 2, 3, 16, None, True, False, 0.5, "nearest", [3, 3], [2, 2], 1000, -1)
    args = [
        draw.choice((True, False) if kind == "bool" else (*WHOLE, *others)[: None if draw.random() < 0.2 else 12])
        for kind in known[:count]
    ]
    if signature.rule.kind in ("block", "stage"):
        args.insert(0, draw.choice((8, 16, 16, 32, 64)))
    return [name, args]


def _set_key(draw: random.Random, document: dict) -> None:
    key = draw.choice(list(KEYS))
    document[key] = copy.deepcopy(draw.choice(KEYS[key]))


def _nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@functools.cache
def whole(task: str) -> dict[str, object]:
    """The content of a checkpoint that opens."""
    torch.manual_seed(0)
    model = Detector(resolve_graph(BASES[task], name=f"{task}.yaml"))
    return content_of(Checkpoint(model.graph, model.state_dict(), settings={"imgsz": 64}, metrics={"x": 0.5}))


@functools.cache
def shipped_state(name: str) -> dict[str, Tensor]:
    """Zeros under the names of a shipped graph of size n, in half precision as published files have them."""
    shapes = state_shapes(read_graph(f"{name}.yaml", "n", nc=2))
    return {key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}


def _fit_weights(content: dict[str, object]) -> None:
    """Give the content weights of its changed graph, where that has some of reasonable size: they hide nothing."""
    saved = content.get("graph")
    try:
        names = {"nc": saved["nc"], "names": saved["names"], "variant": saved["variant"]}
        shapes = state_shapes(resolve_graph(saved["document"], **names))
    except (UserError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return
    if len(shapes) < 1000 and sum(torch.Size(shape).numel() for shape in shapes.values()) < 10**7:
        content["state"] = {name: torch.zeros(shape) for name, shape in shapes.items()}


def write(seed: int, folder: Path) -> Path:
    """Write the checkpoint of a seed; some of our graphs go into a pickled model of another maker."""
    content, path = mutated(seed), folder / f"{seed}.pt"
    if seed % 5 == 0 and isinstance(content.get("graph"), dict) and isinstance(content.get("state"), dict):
        state = content["state"]
        if state and all(isinstance(tensor, Tensor) and key.count(".") > 1 for key, tensor in state.items()):
            document = content["graph"].get("document")
            try:
                return write_foreign(path, state, attributes={"yaml": document, "names": content["graph"].get("names")})
            except (RuntimeError, KeyError, AttributeError, TypeError, RecursionError):
                pass  # a tree of modules cannot have these tensors
    torch.save(content, path, _use_new_zipfile_serialization=True)
    return path
