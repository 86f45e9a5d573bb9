"""Predict with plain keywords, without settings, files and printed lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from bitfalcon_plugin.ops.nms import Suppression
from bitfalcon_plugin.predict.inference import Options
from bitfalcon_plugin.predict.pipeline import predict_batches
from bitfalcon_plugin.predict.results import Results
from bitfalcon_plugin.predict.sources import Item


def predict(
    model: nn.Module, sources: Iterable[Item], *, skipped: list[str] | None = None, **options
) -> Iterator[Results]:
    """Yield the Results of every source that can be read. options: fields of Options and of Suppression."""
    names = Suppression.__dataclass_fields__
    rule = Suppression(**{name: options.pop(name) for name in [*options] if name in names})
    for batch in predict_batches(model, sources, Options(rule=rule, **options), skipped=skipped):
        yield from batch.results
