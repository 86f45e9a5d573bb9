"""Replace convolutions by ternary layers and back: which layers a policy names, what becomes of each layer, and why.

Written from spec/bit.md sections 4.3 and 4.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from ..config.errors import UserError, did_you_mean, raise_problems
from .graph.bit_policy import EVERYTHING, NOTHING, OPTIONS, PARTS, Policy, parts_of
from .graph.rows import Graph, Row
from .modules.bit_activations import QuantisedLayer
from .modules.bit_folded import FrozenConv2d
from .modules.bit_kernels import check_backend
from .modules.bit_layers import BitConv2d, BitLayer, BitLinear
from .modules.conv import Conv
from .modules.head import Detect, share
from .patterns import name_matcher

TERNARY = {nn.Conv2d: BitConv2d, nn.Linear: BitLinear}
KEEP = ("default", NOTHING)  # values of keep= that are no regular expressions


@dataclass(frozen=True)
class Change:
    """What became of one layer.

    action: ternary, int8, float (after unbitify), kept (float) or already (ternary). before: bytes as float32. after:
    bytes in the packed form.
    """

    layer: str
    action: str
    reason: str
    parameters: int
    before: int
    after: int


class Changes(tuple):
    """A Change for every layer that the policy named. `str()` is a table of them."""

    def __str__(self) -> str:
        titles = ("layer", "action", "reason", "parameters", "float32 B", "then B")
        lines = [titles, *((c.layer, c.action, c.reason, f"{c.parameters}", f"{c.before}", f"{c.after}") for c in self)]
        widths = [max(map(len, column)) for column in zip(*lines)]
        aligned = [f"{{:<{width}}}" if index < 3 else f"{{:>{width}}}" for index, width in enumerate(widths)]
        form = "  ".join(aligned)
        return "\n".join((*(form.format(*cells) for cells in lines), self.total()))

    def total(self) -> str:
        """Return one line: how many layers became what, and the bytes."""
        counts = Counter(c.action for c in self)
        summary = ", ".join(f"{count} {action}" for action, count in counts.items()) or "no layer"
        parameters = sum(c.parameters for c in self)
        before, after = sum(c.before for c in self) / 1e6, sum(c.after for c in self) / 1e6
        return f"{summary}; {parameters} parameters, {before:.2f} MB as float32, {after:.2f} MB then"

    @property
    def changed(self) -> list[str]:
        """The names of the layers that were replaced."""
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
    """Replace convolutions and linear layers of a Detector by ternary layers with their weights, in place.

    bit: head, neck, backbone, several of them with commas, all, or a regular expression that is searched for in the
    names of layers. keep: "default" (the layers that read the image, the last layers of the head, its distribution),
    regular expressions of more layers to keep, or "none" for no layer but the distribution. dw: int8, ternary or fp for
    depthwise layers. rule, act, granularity: as of BitConv2d. A second call changes nothing. Activations stay float
    until `calibrate` or training has set their scales; the layers are part of model.graph from now on. Returns Changes.
    UserError for an expression that matches no layer, and for an option that does not exist.
    """
    policy = Policy((), (), rule, dw, act, granularity)
    _check(bit, policy)
    parts, named = parts_of(bit), name_matcher("bit", bit)
    patterns = [keep] if isinstance(keep, str) else list(keep)
    keepers = [name_matcher("keep", pattern) for pattern in patterns if pattern not in KEEP]
    candidates = list(_layers(model.model, model.graph))
    layers = [layer for layer in candidates if (layer.part in parts if parts else named(layer.name))]
    if not layers:
        example, choices = candidates[len(candidates) // 2].name, (*PARTS, EVERYTHING)
        raise UserError(
            f"bit={bit}: no layer of {model.graph.name} is called that; give {', '.join(choices)}, or an expression "
            f"that is found in names such as {example}.{did_you_mean(bit, choices)}"
        )
    keep_reason = partial(_reason_to_keep, none=NOTHING in patterns, keepers=keepers)
    changes = Changes(_replace(layers, policy, keep_reason))
    _share_scales(model.model)
    if changes.changed:
        whole_parts = parts is not None and patterns == ["default"]
        policy = replace(policy, parts=parts) if whole_parts else replace(policy, layers=tuple(changes.changed))
        _record(model, (*model.graph.bit, policy))
    return changes


def unbitify(model: nn.Module, only: Collection[str] | None = None) -> Changes:
    """Replace ternary layers by float layers with the trained weights, in place; returns Changes.

    only: names of layers, for experiments: model.graph then stays unchanged.
    """
    changes = []
    for parent, child, name in _submodules(model.model):
        module = getattr(parent, child)
        if isinstance(module, FrozenConv2d):
            raise UserError(
                f"{name}: a folded ternary layer has no weights to go back to. "
                "Take the model from before fuse() or freeze()."
            )
        if isinstance(module, BitLayer) and (only is None or name in only):
            setattr(parent, child, module.unquantised())
            changes.append(_change(name, getattr(parent, child), "float", ""))
    _share_scales(model.model)
    if only is None:
        _record(model, (Policy(),) if model.graph.rows[-1].module == "BitDetect" else ())
    return Changes(changes)


def freeze(model: nn.Module, backend: str = "auto") -> nn.Module:
    """Make a Detector with ternary layers ready for inference, in place, and return it: folded, without gradients.

    A ternary layer then has only its codes; save the model from before, or what bit.packing writes. backend: one of
    bit_kernels.BACKENDS, for the ternary layers; `bit_kernels.describe` says what computes each kind. UserError for a
    backend that this machine does not have.
    """
    check_backend(backend)
    model.eval().fuse().requires_grad_(False)
    for layer in ternary_layers(model).values():
        layer.backend = backend
    return model


def apply_policies(rows: nn.ModuleList, graph: Graph) -> None:
    """Make the layers ternary that the graph names. UserError for names that are none of its layers."""
    for policy in graph.bit:
        if not policy.parts and not policy.layers:  # a head that is ternary by its name becomes float
            for parent, child, _ in _submodules(rows):
                if isinstance(module := getattr(parent, child), BitLayer):
                    setattr(parent, child, module.unquantised())
            continue
        layers = list(_layers(rows, graph))
        unknown = set(policy.layers) - {layer.name for layer in layers}
        raise_problems(f"{graph.name}: bit names layers that are not there:", sorted(unknown)[:20])
        names = frozenset(policy.layers)
        by_name = [layer for layer in layers if layer.name in names]
        by_part = [layer for layer in layers if layer.part in policy.parts and layer.name not in names]
        _replace(by_name, policy, partial(_reason_to_keep, none=True))
        _replace(by_part, policy, _reason_to_keep)
    if graph.bit:
        _share_scales(rows)


def replace_alike(model: nn.Module, other: nn.Module) -> None:
    """Make those layers of a float Detector ternary that are ternary in `other`, with the same options; in place.

    For experiments: model.graph stays unchanged. UserError for a layer that the model lacks, or has in another shape.
    """
    templates, layers = ternary_layers(other), {layer.name: layer for layer in _layers(model.model, model.graph)}

    def fits(name: str) -> bool:
        module = layers[name].module if name in layers else None
        return type(module) in TERNARY and module.weight.shape == weights_of(templates[name]).shape

    raise_problems(
        "The models are of different graphs. Layers that the float model lacks, or has in another shape:",
        [name for name in templates if not fits(name)][:20],
    )
    for name, template in templates.items():
        layer = layers[name]
        options = {
            "rule": template.rule,
            "act": "static" if template.act == "given" else template.act,
            "granularity": getattr(template, "granularity", "channel"),  # a folded layer no longer has it
        }
        setattr(layer.parent, layer.child, TERNARY[type(layer.module)].of(layer.module, **options))
    _share_scales(model.model)


def observe(model: nn.Module, observing: bool) -> None:
    """Let static scales of activations follow the training batches, or fix them."""
    for module in model.modules():
        if isinstance(module, BitLayer):
            module.observing = observing


def ternary_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the ternary and int8 layers of a Detector by name, trained or folded."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantisedLayer)}


@dataclass(frozen=True)
class Layer:
    """A layer and its place in the model. role: "", or why the layer usually stays float."""

    name: str
    part: str
    role: str
    parent: nn.Module
    child: str

    @property
    def module(self) -> nn.Module:
        """The module with this name now."""
        return getattr(self.parent, self.child)


def _layers(rows: nn.ModuleList, graph: Graph) -> Iterator[Layer]:
    parts = parts_by_row(graph)
    for parent, child, name in _submodules(rows):
        module, row = getattr(parent, child), graph.rows[int(name.split(".")[1])]
        if isinstance(module, (*TERNARY, FrozenConv2d)):
            yield Layer(name, parts[row.index], _role(module, parent, name, row, graph), parent, child)


def parts_by_row(graph: Graph) -> list[str]:
    """Return backbone, neck or head for each row of the graph; the head is the last row."""
    backbone = len(graph.document.get("backbone") or [])
    parts = ["backbone" if row.index < backbone else "neck" for row in graph.rows]
    return [*parts[:-1], "head"]


def _role(module: nn.Module, parent: nn.Module, name: str, row: Row, graph: Graph) -> str:
    if ".dfl." in name:
        return "distribution"
    if row.kind == "head" and not isinstance(parent, Conv):
        return "prediction"
    return "stem" if -1 in row.sources and getattr(module, "in_channels", 0) == graph.channels else ""


def _submodules(rows: nn.ModuleList) -> list[tuple[nn.Module, str, str]]:
    """Return (parent, name in the parent, name in the Detector) of each; a module of two parents has two names."""
    parents = [(path, parent) for path, parent in rows.named_modules() if path]
    return [
        (parent, child, f"model.{path}.{child}") for path, parent in parents for child, _ in parent.named_children()
    ]


def _reason_to_keep(layer: Layer, none: bool = False, keepers: Iterable[Callable[[str], bool]] = ()) -> str:
    """Return why a layer stays float, or "". none: a role is no reason, except for the distribution."""
    if layer.role == "distribution" or layer.role and not none:
        return layer.role
    return "keep" if any(matches(layer.name) for matches in keepers) else ""


def _replace(layers: Iterable[Layer], policy: Policy, keep_reason: Callable[[Layer], str]) -> list[Change]:
    """Replace the layers that nothing keeps, in place; return what became of each."""
    changes = []
    for layer in layers:
        module = layer.module
        if isinstance(module, QuantisedLayer):
            changes.append(_change(layer.name, module, "already", _kind(module.rule)))
            continue
        depthwise = getattr(module, "groups", 1) > 1 and module.weight.shape[1] == 1
        if reason := keep_reason(layer) or _obstacle(module, depthwise, policy):
            changes.append(_change(layer.name, module, "kept", reason))
            continue
        rule = "int8" if depthwise and policy.dw == "int8" else policy.rule
        new = TERNARY[type(module)].of(module, rule=rule, act=policy.act, granularity=policy.granularity)
        setattr(layer.parent, layer.child, new)
        changes.append(_change(layer.name, new, _kind(rule), "depthwise" if depthwise else rule))
    return changes


def _obstacle(module: nn.Module, depthwise: bool, policy: Policy) -> str:
    if type(module) not in TERNARY:
        return f"no ternary form of {type(module).__name__}"
    return "dw=fp" if depthwise and policy.dw == "fp" else ""


def _kind(rule: str) -> str:
    return "int8" if rule == "int8" else "ternary"


def _change(name: str, module: nn.Module, action: str, reason: str) -> Change:
    weights = weights_of(module)
    count, channels = weights.numel(), len(weights)
    before = after = 4 * (count + (channels if module.bias is not None else 0))
    if isinstance(module, QuantisedLayer):
        codes = count if module.rule == "int8" else -(-count // 5)  # bytes: five ternary weights in each
        after = codes + 8 * channels + 4  # with a scale and a bias for each channel, and the scale of the activations
    return Change(name, action, reason, count, before, after)


def weights_of(module: nn.Module) -> Tensor:
    """Return the weights of a layer, of a folded ternary layer the codes: (O, ...)."""
    return module.codes if isinstance(module, FrozenConv2d) else module.weight


def _share_scales(rows: nn.ModuleList) -> None:
    for module in rows.modules():
        if isinstance(module, Detect):
            share(module)


def _record(model: nn.Module, policies: tuple[Policy, ...]) -> None:
    """Write the policies into the model's graph, so that the model can be built again from the graph."""
    graph = model.graph
    document = {key: value for key, value in graph.document.items() if key != "bit"}
    if policies:
        document["bit"] = [policy.as_document() for policy in policies]
    model.graph = replace(graph, document=document, bit=policies)


def _check(bit: str, policy: Policy) -> None:
    problems = [
        f"{key}={value!r} is none of {', '.join(choices)}.{did_you_mean(str(value), choices)}"
        for key, choices in OPTIONS.items()
        if (value := getattr(policy, key)) not in choices
    ]
    if not isinstance(bit, str) or not bit.strip():
        words = ", ".join((*PARTS, EVERYTHING))
        problems.append(f"bit={bit!r}: expected {words}, or a regular expression of layer names")
    raise_problems("Layers cannot be made ternary:", problems)
