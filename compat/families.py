"""The layouts of other makers' weights: one literal table a family (spec/families.md sections 1 and 2).

Ours has attention projections with rows [all q | all k | all v], each head after head; everything else has the makers'
own names, so a table names only what differs and passes the rest on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .remap import Dropped, FoldedBias, Part, Rows, Same, Table

AREA_HEAD = 32  # channels a head of area attention
PSA_HEAD = 64  # channels a head of position-sensitive attention, whose keys have half of them


def _per_head(heads: int, key: int, value: int) -> Tensor:
    """The order that turns rows of one head after the other, [q k v] each, into all q, all k, all v."""
    rows = torch.arange(heads * (2 * key + value)).view(heads, -1)  # (heads, key + key + value)
    return torch.cat([part.flatten() for part in rows.split((key, key, value), 1)])


def area_order(rows: int) -> Tensor:
    """Row order of a v1 area-attention projection of 3 * dim rows."""
    return _per_head(rows // 3 // AREA_HEAD, AREA_HEAD, AREA_HEAD)


def psa_order(rows: int) -> Tensor:
    """Row order of a yolo11 attention projection of 2 * dim rows."""
    dim = rows // 2
    heads = max(dim // PSA_HEAD, 1)
    return _per_head(heads, dim // heads // 2, dim // heads)


PROFILED = Dropped("an operation count written by a profiler, not a weight")

V1: Table = {
    "{module}.total_ops": PROFILED,
    "{module}.total_params": PROFILED,
    "{block}.attn.qkv.{tensor}": Rows("{block}.attn.qkv.{tensor}", area_order),
    "{block}.attn.pe.conv.bias": FoldedBias("{block}.attn.pe.bn.running_mean"),  # published files only
    "{key}": Same("{key}"),
}

TURBO: Table = {
    "{module}.total_ops": PROFILED,
    "{module}.total_params": PROFILED,
    "{block}.attn.qk.{tensor}": Part("{block}.attn.qkv.{tensor}", index=0, share=2, of=3),
    "{block}.attn.v.{tensor}": Part("{block}.attn.qkv.{tensor}", index=1, share=1, of=3),
    "{key}": Same("{key}"),
}

YOLO11: Table = {
    "{module}.total_ops": PROFILED,
    "{module}.total_params": PROFILED,
    "{block}.attn.qkv.{tensor}": Rows("{block}.attn.qkv.{tensor}", psa_order),
    "{key}": Same("{key}"),
}

YOLOV8: Table = {"{module}.total_ops": PROFILED, "{module}.total_params": PROFILED, "{key}": Same("{key}")}

TABLES: dict[str, Table] = {"v1": V1, "turbo": TURBO, "yolo11": YOLO11, "yolov8": YOLOV8}

# (channels of the first convolution, items of row 6) -> size, for the graphs of these families
SIZES: dict[str, dict[tuple[int, int], str]] = {
    "v1": {(16, 2): "n", (32, 2): "s", (64, 2): "m", (64, 4): "l", (96, 4): "x"},
    "yolo11": {(16, 1): "n", (32, 1): "s", (64, 1): "m", (64, 2): "l", (96, 2): "x"},
    "yolov8": {(16, 2): "n", (32, 2): "s", (48, 4): "m", (64, 6): "l", (80, 6): "x"},
}
SIZES["turbo"] = SIZES["v1"]
GRAPHS = {"v1": "yolov12.yaml", "turbo": "yolov12-turbo.yaml", "yolo11": "yolo11.yaml", "yolov8": "yolov8.yaml"}
STRIDES = {0: (1,), 3: (8, 16, 32)}  # of those graphs, by the number of levels of their head
# of the names of graphs, by task
SUFFIXES = {"detect": "", "segment": "-seg", "classify": "-cls", "pose": "-pose", "obb": "-obb"}

# A family, and tensor keys that identify it; the first family whose keys are all present is chosen. Lines with a key
# `linear` are classification graphs, which lack the row of pyramid pooling.
FAMILY_KEYS = (
    ("turbo", {"model.6.m.0.0.attn.qk.conv.weight"}),
    ("v1", {"model.6.m.0.0.attn.qkv.conv.weight"}),
    ("yolo11", {"model.10.m.0.ffn.0.conv.weight"}),
    ("yolo11", {"model.9.m.0.ffn.0.conv.weight", "model.10.linear.weight"}),
    ("yolov8", {"model.9.cv2.conv.weight"}),
    ("yolov8", {"model.8.m.0.cv2.conv.weight", "model.9.linear.weight"}),
)


class Unrecognised(ValueError):
    """Why tensors are not those of a known model, as the end of the sentence "the file holds tensors, but ..."."""


@dataclass(frozen=True)
class Recognised:
    """What is recognised from tensors alone.

    family: a key of TABLES. variant: of attention (v1, turbo, turbo-all-residual), '' without attention. scale: '' for
    an unknown one. graph: the shipped YAML, '' for another graph. task: a key of SUFFIXES. strides: of the
    levels of the head, (1,) for a head without levels, () where they are unknown. keypoint_values: of an object.
    """

    family: str
    variant: str
    scale: str
    graph: str
    task: str
    nc: int
    reg_max: int
    strides: tuple[int, ...]
    keypoint_values: int = 0


def recognise(state: Mapping[str, Tensor]) -> Recognised:
    """Recognise tensors under their maker's keys (`model.<row>...`). Raises Unrecognised without a known head."""
    rows = {int(match[1]) for key in state if (match := re.match(r"model\.(\d{1,9})\.", key))}
    if not rows:
        raise Unrecognised("no tensor is called model.<row>...: these are not the weights of a detector")
    if _mixes(state):
        raise Unrecognised(
            "its graph mixes the attention blocks of two families, whose layouts cannot be told apart for certain"
        )
    head = f"model.{max(rows)}."
    task, nc, reg_max, levels = _head(state, head)
    stock = next((family for family, keys in FAMILY_KEYS if keys <= state.keys()), None)
    if stock is None or "model.0.conv.weight" not in state:
        return Recognised(_layout(state), _variant(state), "", "", task, nc, reg_max, ())
    items = len({key.split(".")[3] for key in state if key.startswith("model.6.m.")})
    scale = SIZES[stock].get((len(state["model.0.conv.weight"]), items), "")
    strides = STRIDES.get(levels, ())
    graph = GRAPHS[stock].replace(".yaml", f"{SUFFIXES[task]}.yaml") if strides else ""
    points = len(state[f"{head}cv4.0.2.weight"]) if task == "pose" else 0
    return Recognised(stock, _variant(state), scale, graph, task, nc, reg_max, strides, points)


def _head(state: Mapping[str, Tensor], head: str) -> tuple[str, int, int, int]:
    """The task, the number of classes, the bins of a side's distribution, and the number of levels."""
    if head + "linear.weight" in state:
        return "classify", len(state[head + "linear.weight"]), 0, 0
    boxes, classes = (state.get(f"{head}{branch}.0.2.weight") for branch in ("cv2", "cv3"))
    if boxes is None or classes is None:
        raise Unrecognised(f"the last row ({head[:-1]}) is no Detect, Segment, Pose, OBB or Classify head")
    levels = len({key.split(".")[3] for key in state if key.startswith(head + "cv2.")})
    return _task_with_boxes(state, head), len(classes), len(boxes) // 4, levels


def _task_with_boxes(state: Mapping[str, Tensor], head: str) -> str:
    if head + "proto.cv1.conv.weight" in state:
        return "segment"
    more = state.get(f"{head}cv4.0.2.weight")  # one row for an angle, at least two for a keypoint
    return "detect" if more is None else "obb" if len(more) == 1 else "pose"


def _layout(state: Mapping[str, Tensor]) -> str:
    """The family whose layout of projections a graph that is not shipped uses."""
    marks = {".attn.qk.": "turbo", ".ffn.": "yolo11", ".attn.qkv.": "v1"}
    return next((family for mark, family in marks.items() if any(mark in key for key in state)), "yolov8")


def family_of_ours(state: Mapping[str, Tensor], variant: str) -> str:
    """The family in whose keys our own tensors can be written. variant: of their graph."""
    names = "\n".join(state)
    if ".ffn." in names:
        return "yolo11"
    if ".attn.qkv." not in names:
        return "yolov8"
    return "v1" if variant == "v1" else "turbo"


def _mixes(state: Mapping[str, Tensor]) -> bool:
    # Area attention is two levels inside its stage, position-sensitive attention one. Their rows differ in order.
    names = "\n".join(state)
    return bool(re.search(r"\.m\.\d+\.\d+\.attn\.qkv?\.", names) and re.search(r"\.m\.\d+\.attn\.qkv\.", names))


def _variant(state: Mapping[str, Tensor]) -> str:
    projections = [key for key in state if re.search(r"\.m\.\d+\.\d+\.attn\.(qkv|qk)\.conv\.weight$", key)]
    if not projections:
        return ""
    if ".qkv." in projections[0]:
        return "v1"
    stage = projections[0].split(".m.")[0]
    name = re.sub(r"attn\.qk\.", "mlp.0.", projections[0])
    if name not in state:
        raise Unrecognised(f"{name}, which belongs to {projections[0]}, is missing")
    mlp = state[name]
    ratio = len(mlp) / mlp.shape[1]
    return "turbo-all-residual" if f"{stage}.gamma" in state and ratio in (2.0, 1.0) else "turbo"
