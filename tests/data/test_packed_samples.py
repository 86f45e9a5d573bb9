"""Samples that lie in a few large tensors come out as they were put in."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from bitfalcon_plugin.data.dataset import PackedSamples, Sample
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.polygons import Polygons

BACKGROUND = Instances.empty()


def labels(count: int, **parts) -> Instances:
    return Instances(torch.rand(count, 4), torch.arange(count), **parts)


def outlines(*counts: int, rectangles: bool = False) -> Polygons:
    return Polygons(torch.rand(sum(counts), 2), torch.tensor(counts), rectangles)


MIXTURES = {
    "boxes": [labels(2), BACKGROUND, labels(1)],
    "outlines": [labels(2), labels(3, polygons=outlines(3, 0, 5)), BACKGROUND, labels(1, polygons=outlines(4))],
    "rectangles": [labels(1, polygons=outlines(4, rectangles=True)), BACKGROUND],
    "keypoints": [BACKGROUND, labels(2, keypoints=torch.rand(2, 3, 3)), labels(1, keypoints=torch.rand(1, 3, 3))],
    "backgrounds": [BACKGROUND, BACKGROUND],
    "nothing": [],
}


def plain(value: object) -> object:
    """Tensors as (type, list), dataclasses as dicts."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.tolist()
    if isinstance(value, (Instances, Polygons, Sample)):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value


@pytest.mark.parametrize("name", MIXTURES)
def test_samples_come_out_as_they_were_put_in(name):
    samples = [
        Sample(Path(f"a/{number} é.jpg"), (10 + number, 20), each, layout="layout", truth=number or None)
        for number, each in enumerate(MIXTURES[name])
    ]
    packed = PackedSamples(samples)
    assert len(packed) == len(samples)
    assert [plain(sample) for sample in packed] == [plain(sample) for sample in samples]
    assert [plain(sample) for sample in packed[1:]] == [plain(sample) for sample in samples[1:]]
    assert not samples or plain(packed[-1]) == plain(samples[-1])
    with pytest.raises(IndexError):
        packed[len(samples)]
