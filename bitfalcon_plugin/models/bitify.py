"""Ternary layers in the place of convolutions, and back: which layers a policy means, what becomes of each, and why.

Written from spec/bit.md sections 4.3 and 4.4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ..config.errors import UserError, did_you_mean, raise_problems
from .graph.bit_policy import EVERYTHING, NOTHING, OPTIONS, PARTS, Policy, parts_of
from .graph.rows import Graph
from .modules.bit_folded import FrozenConv2d
from .modules.bit_kernels import check_backend
from .modules.bit_layers import BitConv2d, BitLinear
from .modules.conv import Conv
from .modules.head import Detect, share

TERNARY = {nn.Conv2d: BitConv2d, nn.Linear: BitLinear}
KEEP = ("default", NOTHING)  # words of keep=; everything else in it is a regular expression


@dataclass(frozen=True)
class Change:
    """One layer of the table. action: ternary, int8, float (again), kept, already. Bytes: of float32, and of the packed form."""

    layer: str
    action: str
    reason: str
    parameters: int
    before: int
    after: int


class Changes(tuple):
    """What became of every layer that was meant: a row each. `str()` is the table."""

    def __str__(self) -> str:
        head = ("layer", "action", "reason", "parameters", "float32 B", "then B")
        rows = [head, *((c.layer, c.action, c.reason, f"{c.parameters}", f"{c.before}", f"{c.after}") for c in self)]
        widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
        lines = [
            "  ".join(
                f"{text:<{width}}" if place < 3 else f"{text:>{width}}"
                for place, (text, width) in enumerate(zip(row, widths))
            )
            for row in rows
        ]
        return "\n".join((*lines, self.total()))

    def total(self) -> str:
        """One line: how many layers became what, and the bytes."""
        counts = {action: sum(c.action == action for c in self) for action in dict.fromkeys(c.action for c in self)}
        words = ", ".join(f"{count} {action}" for action, count in counts.items()) or "no layer"
        before, after = sum(c.before for c in self), sum(c.after for c in self)
        return f"{words}; {sum(c.parameters for c in self)} parameters, {before / 1e6:.2f} MB as float32, {after / 1e6:.2f} MB then"

    @property
    def changed(self) -> list[str]:
        """Names of the layers that are others now."""
        return [c.layer for c in self if c.action in ("ternary", "int8", "float")]


def bitify(
    model: nn.Module,
    bit: str = "head",
    keep: str | Sequence[str] = "default",
    *,
    rule: str = "absmean",
    dw: str = "int8",
    act: str = "static",
    granularity: str = "channel",
) -> Changes:
    """Put ternary layers in the place of convolutions and linear layers of a Detector, with their weights; in place.

    bit: head, neck, backbone, several of them with commas, all, or a regular expression that is searched for in the names of layers.
    keep: "default" (the layers that read the image, the last ones of the head, its distribution), regular expressions of more layers
    to keep, or "none" for no layer but the distribution. dw: int8, ternary or fp for depthwise layers. rule, act, granularity: as of
    BitConv2d. A second call changes nothing. Activations stay float until `calibrate` or training has set their scales; the layers
    are part of model.graph from here on. Returns Changes. UserError for what matches nothing or does not exist.
    """
    _check(locals())
    parts, wanted = parts_of(bit), _matcher("bit", bit)
    patterns = [keep] if isinstance(keep, str) else list(keep)
    kept = [_matcher("keep", pattern) for pattern in patterns if pattern not in KEEP]
    layers = [
        layer for layer in _layers(model.model, model.graph) if (layer.part in parts if parts else wanted(layer.name))
    ]
    if not layers:
        names = [layer.name for layer in _layers(model.model, model.graph)]
        raise UserError(
            f"bit={bit}: no layer of {model.graph.name} is called that; give {', '.join((*PARTS, EVERYTHING))}, or an expression "
            f"that is found in names such as {names[len(names) // 2]}.{did_you_mean(bit, (*PARTS, EVERYTHING))}"
        )
    policy = Policy((), (), rule, dw, act, granularity)
    changes = Changes(_replace(layers, policy, lambda layer: _reason(layer, NOTHING in patterns, kept)))
    _settle(model.model)
    if changes.changed:
        plain = parts is not None and patterns == ["default"]
        policy = replace(policy, parts=parts) if plain else replace(policy, layers=tuple(changes.changed))
        _note(model, (*model.graph.bit, policy))
    return changes


def unbitify(model: nn.Module, only: Collection[str] | None = None) -> Changes:
    """Put float layers with the weights that are trained in the place of ternary ones, in place; returns Changes.

    only: names of layers, for trying things out: model.graph then stays as it is.
    """
    changes = []
    for parent, child, layer in _named(model.model):
        module = getattr(parent, child)
        if isinstance(module, FrozenConv2d):
            raise UserError(
                f"{layer}: a folded ternary layer has no weights to go back to. Take the model from before fuse() or freeze()."
            )
        if isinstance(module, (BitConv2d, BitLinear)) and (only is None or layer in only):
            setattr(parent, child, module.unquantised())
            changes.append(Change(layer, "float", "", module.weight.numel(), *[_bytes(module, 4)[0]] * 2))
    _settle(model.model)
    if only is None:
        _note(model, (Policy(),) if model.graph.rows[-1].module == "BitDetect" else ())
    return Changes(changes)


def freeze(model: nn.Module, backend: str = "auto") -> nn.Module:
    """Make a Detector with ternary layers ready for inference, in place, and return it: folded, its codes alone, nothing asks for gradients.

    backend: of integer.BACKENDS, for its ternary layers; `integer.describe` tells what each kind is computed by. The file to keep is
    the one from before, or what bit.packing writes. UserError for a backend that cannot be had.
    """
    check_backend(backend)
    model.eval().fuse().requires_grad_(False)
    for layer in ternary_layers(model).values():
        layer.backend = backend
    return model


def apply_policies(rows: nn.ModuleList, graph: Graph) -> None:
    """Make the layers ternary that the graph says are. UserError for names that are none of its layers."""
    for policy in graph.bit:
        if not policy.parts and not policy.layers:  # a head that is ternary by its name, made float
            for parent, child, _ in _named(rows):
                if isinstance(module := getattr(parent, child), (BitConv2d, BitLinear)):
                    setattr(parent, child, module.unquantised())
            continue
        layers = list(_layers(rows, graph))
        unknown = set(policy.layers) - {layer.name for layer in layers}
        raise_problems(f"{graph.name}: bit names layers that are not there:", sorted(unknown)[:20])
        named = frozenset(policy.layers)
        chosen = [layer for layer in layers if layer.part in policy.parts or layer.name in named]
        for _ in _replace(chosen, policy, lambda layer, named=named: _reason(layer, layer.name in named, ())):
            pass
    if graph.bit:
        _settle(rows)


def replace_alike(model: nn.Module, other: nn.Module) -> None:
    """Make the layers of a float Detector ternary that are so in `other`, with the options they have there; in place.

    For trying things out: model.graph stays as it is. UserError for a layer that the model has not, or has in another shape.
    """
    wanted, found = ternary_layers(other), {layer.name: layer for layer in _layers(model.model, model.graph)}
    fits = {
        name
        for name, layer in found.items()
        if name in wanted
        and type(layer.module) in TERNARY
        and layer.module.weight.shape == _weights(wanted[name]).shape
    }
    raise_problems(
        "The models are of different graphs. Layers that the float model lacks, or has in another shape:",
        [name for name in wanted if name not in fits][:20],
    )
    for name, like in wanted.items():
        layer, act = found[name], "static" if like.act == "given" else like.act
        new = TERNARY[type(layer.module)].of(
            layer.module, rule=like.rule, act=act, granularity=getattr(like, "granularity", "channel")
        )
        setattr(layer.parent, layer.child, new)
    _settle(model.model)


def observe(model: nn.Module, wanted: bool) -> None:
    """Whether static scales of activations follow what training batches hold, or stay as they are."""
    for module in model.modules():
        if isinstance(module, (BitConv2d, BitLinear)):
            module.observing = wanted


def ternary_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The ternary and int8 layers of a Detector by name, trained or folded."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (BitConv2d, BitLinear, FrozenConv2d))
    }


@dataclass(frozen=True)
class Layer:
    """A layer and where it stands. role: "" or why it usually stays float."""

    name: str
    part: str
    role: str
    parent: nn.Module
    child: str

    @property
    def module(self) -> nn.Module:
        """The layer itself, as it is now."""
        return getattr(self.parent, self.child)


def _layers(rows: nn.ModuleList, graph: Graph) -> Iterator[Layer]:
    parts = parts_by_row(graph)
    for parent, child, name in _named(rows):
        module, row = getattr(parent, child), graph.rows[int(name.split(".")[1])]
        if isinstance(module, (*TERNARY, FrozenConv2d)):
            yield Layer(name, parts[row.index], _role(module, parent, name, row, graph), parent, child)


def parts_by_row(graph: Graph) -> list[str]:
    """backbone, neck or head for each row; the head is the last row."""
    backbone = len(graph.document.get("backbone") or [])
    return ["head" if row is graph.rows[-1] else "backbone" if row.index < backbone else "neck" for row in graph.rows]


def _role(module: nn.Module, parent: nn.Module, name: str, row, graph: Graph) -> str:
    if ".dfl." in name:
        return "distribution"
    if row.kind == "head" and not isinstance(parent, Conv):
        return "prediction"
    return "stem" if -1 in row.sources and getattr(module, "in_channels", 0) == graph.channels else ""


def _named(rows: nn.ModuleList) -> list[tuple[nn.Module, str, str]]:
    # (parent, name in it, name in the Detector); shared modules under each of their names
    return [
        (parent, child, f"model.{path}.{child}")
        for path, parent in rows.named_modules()
        if path
        for child in parent._modules
    ]


def _reason(layer: Layer, none: bool, kept: Iterable[Callable[[str], bool]]) -> str:
    """Why a layer stays as it is; empty where nothing speaks for it."""
    if layer.role == "distribution" or layer.role and not none:
        return layer.role
    return "keep" if any(matches(layer.name) for matches in kept) else ""


def _replace(layers: Iterable[Layer], policy: Policy, reason: Callable[[Layer], str]) -> Iterator[Change]:
    for layer in layers:
        module, why = layer.module, reason(layer)
        if isinstance(module, (BitConv2d, BitLinear, FrozenConv2d)):
            yield _change(layer, module, "already", "int8" if module.rule == "int8" else "ternary", _after(module))
            continue
        depthwise = getattr(module, "groups", 1) > 1 and module.weight.shape[1] == 1
        why = why or ("no ternary form of " + type(module).__name__ if type(module) not in TERNARY else "")
        why = why or ("dw=fp" if depthwise and policy.dw == "fp" else "")
        if why:
            yield _change(layer, module, "kept", why, 4.0)
            continue
        rule = "int8" if depthwise and policy.dw == "int8" else policy.rule
        new = TERNARY[type(module)].of(module, rule=rule, act=policy.act, granularity=policy.granularity)
        setattr(layer.parent, layer.child, new)
        yield _change(
            layer, new, "int8" if rule == "int8" else "ternary", "depthwise" if depthwise else rule, _after(new)
        )


def _change(layer: Layer, module: nn.Module, action: str, reason: str, after: float) -> Change:
    return Change(layer.name, action, reason, _weights(module).numel(), *_bytes(module, after))


def _weights(module: nn.Module) -> Tensor:
    return module.codes if isinstance(module, FrozenConv2d) else module.weight


def _after(module: nn.Module) -> float:
    # bytes of a weight in the packed form
    return 1.0 if module.rule == "int8" else 0.2


def _bytes(module: nn.Module, each: float) -> tuple[int, int]:
    # Of weights and biases: as float32, and packed with `each` bytes a weight, a scale and a bias for each output channel.
    count, channels = _weights(module).numel(), len(_weights(module))
    before = 4 * (count + (channels if module.bias is not None else 0))
    return before, before if each == 4 else -int(-count * each // 1) + 8 * channels + 4


def _settle(rows: nn.ModuleList) -> None:
    for module in rows.modules():
        if isinstance(module, Detect):
            share(module)


def _note(model: nn.Module, policies: tuple[Policy, ...]) -> None:
    # The graph says what the layers are, so that the model can be built again from it.
    graph = model.graph
    document = {key: value for key, value in graph.document.items() if key != "bit"}
    if policies:
        document["bit"] = [policy.plain() for policy in policies]
    model.graph = replace(graph, document=document, bit=policies)


def _matcher(key: str, pattern: str) -> Callable[[str], bool]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{key}={pattern!r} is no regular expression ({error}). A dot in a name is written \\. , for example "
            r"bit='model\.2\.'."
        ) from error
    return lambda name: compiled.search(name) is not None


def _check(given: dict[str, object]) -> None:
    problems = [
        f"{key}={given[key]!r} is none of {', '.join(values)}.{did_you_mean(str(given[key]), values)}"
        for key, values in OPTIONS.items()
        if given[key] not in values
    ]
    if not isinstance(given["bit"], str) or not given["bit"].strip():
        problems.append(
            f"bit={given['bit']!r}: expected {', '.join((*PARTS, EVERYTHING))}, or a regular expression of layer names"
        )
    raise_problems("Layers cannot be made ternary:", problems)
