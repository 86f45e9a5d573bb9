"""Losses of scripts: a `loss`, `init_criterion` or `criterion` of a network, or a class in the place of ours."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...models.modules.head import Raw
from ...tasks.script_model import ScriptModel
from .overriding import is_foreign

PACKAGE = __package__.rpartition(".")[0]
PLACES = ("utils.loss", "nn.tasks")  # modules in which scripts put a loss class in the place of ours
LOSS = "v8DetectionLoss"


def has_own_loss(network: nn.Module) -> bool:
    """Whether a script gave a network a loss: by a subclass, on the class or the object, or in our module of losses."""
    methods = (getattr(network, name, None) for name in ("loss", "init_criterion", "forward"))
    criterion = getattr(network, "criterion", None)
    foreign = criterion is not None and is_foreign(type(criterion))
    return foreign or any(is_foreign(method) for method in methods if method is not None) or replaced_loss() is not None


def replaced_loss() -> type | None:
    """The class that a script has put in the place of our loss class, also ours with a `__call__` of the script."""
    for place in PLACES:
        cls = vars(sys.modules.get(f"{PACKAGE}.{place}", sys)).get(LOSS)
        if isinstance(cls, type) and (is_foreign(cls) or is_foreign(cls.__call__)):
            return cls
    return None


def losses_of(
    network: nn.Module, values: dict[str, Any], names: Sequence[str], outputs: Any = None, *, times_images: bool = True
) -> dict[str, Tensor]:
    """Return the losses that a network computes of a batch, by name; their gradient is that of its total.

    The total is a scalar or a vector, with `times_images` times the images of the batch, and the parts are a dict, or a
    tensor of as many values as `names`. outputs: of these images, where they were computed before.
    """
    if isinstance(outputs, Raw):
        outputs = network.decode(outputs), outputs.levels() if outputs.sizes else next(iter(outputs.values()))
    result = _result(network, values, outputs)
    total, parts = result if isinstance(result, (tuple, list)) else (result, None)
    total = total.sum() / (len(values["img"]) if times_images else 1)
    if isinstance(parts, Mapping):
        named = {str(name): torch.as_tensor(value).detach() for name, value in parts.items()}
    else:
        items = torch.as_tensor(total if parts is None else parts).detach().float().flatten()
        named = dict(zip(_padded(names, len(items)), items))
    named = {name: value.to(total.device) for name, value in named.items()}
    first = next(iter(named))
    return {**named, first: named[first] + (total - total.detach())}  # no part has a gradient of its own


def _result(network: nn.Module, values: dict[str, Any], outputs: Any) -> Any:
    if outputs is None and is_foreign(network.forward):
        return network(values)
    if is_foreign(getattr(network, "loss", _result)):
        return network.loss(values) if outputs is None else network.loss(values, outputs)
    scripted = network if isinstance(network, ScriptModel) else ScriptModel(network, vars(network).get("args"))
    criterion = getattr(network, "criterion", None)
    if criterion is None:
        replaced = replaced_loss()
        criterion = scripted.init_criterion() if replaced is None else replaced(scripted)
        if is_foreign(criterion) or is_foreign(type(criterion)):
            network.criterion = criterion  # made once
    return criterion(scripted(values["img"]) if outputs is None else outputs, values)


def _padded(names: Sequence[str], count: int) -> list[str]:
    """As many names as there are losses."""
    if count == 1 and len(names) != 1:
        return ["loss"]
    return [*names, *(f"loss{number}" for number in range(len(names), count))][:count]
