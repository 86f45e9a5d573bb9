"""The layouts of other makers' weights: one literal table a family (spec/families.md sections 1 and 2).

Ours has attention projections with rows [all q | all k | all v], each head after head; everything else has the makers'
own names, so a table names only what differs and passes the rest on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .remap import FoldedBias, Part, Rows, Same, Table

AREA_HEAD = 32  # channels a head of area attention
PSA_HEAD = 64  # channels a head of position-sensitive attention, whose keys have half of them


def _per_head(heads: int, key: int, value: int) -> Tensor:
    # rows of one head after the other, [q k v] each -> all q, all k, all v
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


V1: Table = {
    "{block}.attn.qkv.{tensor}": Rows("{block}.attn.qkv.{tensor}", area_order),
    "{block}.attn.pe.conv.bias": FoldedBias("{block}.attn.pe.bn.running_mean"),  # published files only
    "{key}": Same("{key}"),
}

TURBO: Table = {
    "{block}.attn.qk.{tensor}": Part("{block}.attn.qkv.{tensor}", index=0, share=2, of=3),
    "{block}.attn.v.{tensor}": Part("{block}.attn.qkv.{tensor}", index=1, share=1, of=3),
    "{key}": Same("{key}"),
}

YOLO11: Table = {
    "{block}.attn.qkv.{tensor}": Rows("{block}.attn.qkv.{tensor}", psa_order),
    "{key}": Same("{key}"),
}

YOLOV8: Table = {"{key}": Same("{key}")}

TABLES: dict[str, Table] = {"v1": V1, "turbo": TURBO, "yolo11": YOLO11, "yolov8": YOLOV8}
