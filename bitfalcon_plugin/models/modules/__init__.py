"""The modules of the graph language: name -> class and the rule by which a row is read.

Third parties add rows with `register(name, cls, rule)`, or through the entry-point group `bitfalcon.modules`: each
entry point names a callable that is called once, without arguments, and registers what it brings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata

from torch import nn

from ...config.errors import UserError
from ..graph.rules import Rule, Signature
from .attention import C2PSA, A2C2f, AAttn, ABlock, AreaAttn, PSABlock
from .blocks import C2, C3, RELAN, SPPF, Bottleneck, C2f, C3k, C3k2, Concat
from .classify import NORM, Classify
from .conv import Conv, DWConv, SepConv7x7
from .head import BitDetect, Detect
from .library_names import library_class, library_names
from .obb import OBB
from .pose import Pose
from .segment import Segment

__all__ = ["MODULES", "Raw", "entry", "head_tasks", "known_modules", "lookup", "register"]


@dataclass(frozen=True)
class Entry:
    """A module of the graph language: its class (or any callable that makes one) and its rule."""

    cls: Callable[..., nn.Module]
    rule: Rule


MODULES: dict[str, Entry] = {
    "Conv": Entry(Conv, Rule("block")),
    "DWConv": Entry(DWConv, Rule("block")),
    "SepConv7x7": Entry(SepConv7x7, Rule("block", declared_input=True)),
    "Bottleneck": Entry(Bottleneck, Rule("block")),
    "SPPF": Entry(SPPF, Rule("block")),
    "nn.ConvTranspose2d": Entry(nn.ConvTranspose2d, Rule("block")),
    "C2": Entry(C2, Rule("stage")),
    "C2f": Entry(C2f, Rule("stage")),
    "C3": Entry(C3, Rule("stage")),
    "C3k": Entry(C3k, Rule("stage")),
    "C3k2": Entry(C3k2, Rule("stage", modern=True, scaling="c3k2")),
    "C2PSA": Entry(C2PSA, Rule("stage")),
    "A2C2f": Entry(A2C2f, Rule("stage", modern=True, scaling="a2c2f")),
    "RELAN": Entry(RELAN, Rule("stage")),
    "AreaAttn": Entry(AreaAttn, Rule("stage")),
    "AAttn": Entry(AAttn, Rule("same")),
    "ABlock": Entry(ABlock, Rule("same")),
    "PSABlock": Entry(PSABlock, Rule("same")),
    "nn.BatchNorm2d": Entry(nn.BatchNorm2d, Rule("norm")),
    "nn.Conv2d": Entry(nn.Conv2d, Rule("plain")),
    "Concat": Entry(Concat, Rule("join")),
    "Detect": Entry(Detect, Rule("head", legacy=True, class_width=True)),
    "BitDetect": Entry(BitDetect, Rule("head", class_width=True)),
    "Segment": Entry(Segment, Rule("head", legacy=True, class_width=True, scaled=2, task="segment")),
    "Classify": Entry(Classify, Rule("head", task="classify", outputs=("logits",), norm=NORM)),
    "Pose": Entry(Pose, Rule("head", legacy=True, class_width=True, task="pose")),
    "OBB": Entry(OBB, Rule("head", legacy=True, class_width=True, task="obb")),
}

BUILT_IN = frozenset(MODULES)  # without what is registered later
LIBRARY_RULES = {"torchvision.ops.Conv2dNormActivation": Rule("plain")}  # the others keep the width
GIVEN = {"block": 2, "stage": 3}  # leading constructor arguments that the graph fills in: c_in, c_out, repeats
FILLED = {"head": ("channels", "legacy", "class_width")}  # parameters that the graph gives by name


def register(name: str, cls: Callable[..., nn.Module], rule: str | Rule = "block") -> None:
    """Add a module to the graph language: `name` in a row builds `cls` as `rule` says (a key of rules.KINDS or a Rule).

    cls: an nn.Module class, or a function that makes one. A head has an attribute nc, `forward(maps) -> Raw` and
    `decode(raw, sizes, strides)`; one of detection also has reg_max. It may have `start_biases(strides)` and
    `class_layers()`, the names of its layers with a row for each class. Registering the same again changes nothing.

    Raises UserError for a name that means something else, also in torch.nn, for an unknown rule and for a cls that
    cannot be called.
    """
    rule = Rule(rule) if isinstance(rule, str) else rule
    if not isinstance(name, str) or not name.strip() or not callable(cls) or not isinstance(rule, Rule):
        raise UserError(
            f"register({name!r}, {cls!r}, {rule!r}): expected a name, an nn.Module class, and a rule or its name."
        )
    owner = _find(name)
    if owner is not None and (owner.cls is not cls or owner.rule != rule):
        raise UserError(f"register({name!r}): the name belongs to {owner.cls!r} with {owner.rule}; choose another.")
    try:
        inspect.signature(cls)
    except ValueError as error:
        raise UserError(f"register({name!r}): {cls!r} does not tell its arguments; register a Python class.") from error
    MODULES[name] = Entry(cls, rule)


@lru_cache(maxsize=1)
def _load_plugins() -> None:
    for point in metadata.entry_points(group="bitfalcon.modules"):
        try:
            point.load()()
        except Exception as error:  # a plugin may raise anything
            raise UserError(
                f"The plugin {point.name!r} ({point.value}) of the group bitfalcon.modules failed: "
                f"{error!r}. Repair or uninstall it."
            ) from error


def known_modules() -> Collection[str]:
    """Return the names of modules that a row may have."""
    _load_plugins()
    return dict.fromkeys((*MODULES, *library_names()))


def entry(name: str) -> Entry:
    """Return the Entry of a module name. Raises KeyError for an unknown one."""
    _load_plugins()
    if module := _find(name):
        return module
    raise KeyError(name)


def _find(name: str) -> Entry | None:
    name = name.removeprefix("torch.") if name.startswith("torch.nn.") else name
    if name in MODULES:
        return MODULES[name]
    cls = library_class(name)
    return None if cls is None else Entry(cls, LIBRARY_RULES.get(name, Rule("same")))


def head_tasks() -> set[str]:
    """Return the tasks for which there is a head."""
    return {module.rule.task for module in MODULES.values() if module.rule.kind == "head"}


def lookup(name: str) -> Signature:
    """Return the Signature of a module name. Raises KeyError for an unknown one."""
    module = entry(name)
    kind = module.rule.kind
    parameters = list(inspect.signature(module.cls).parameters.values())
    has_any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    written = [p for p in _positional(parameters)[GIVEN.get(kind, 0) :] if p.name not in FILLED.get(kind, ())]
    if has_any_number and hasattr(module.cls, "Options"):  # a block whose `*row` is a dataclass (see modules.blocks)
        has_any_number = False
        written += _positional(inspect.signature(module.cls.Options).parameters.values())
    annotations = tuple((p.name, getattr(p.annotation, "__name__", str(p.annotation))) for p in written)
    return Signature(module.rule, annotations, sum(p.default is p.empty for p in written), has_any_number)


def _positional(parameters: Iterable[inspect.Parameter]) -> list[inspect.Parameter]:
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
