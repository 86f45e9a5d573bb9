"""The modules of the graph language: name -> class and the rule by which a row is read.

Third parties add rows with `register(name, cls, rule)`, or through the entry-point group `bitfalcon.modules`: each entry
point names a callable that is called once, without arguments, and registers what it brings.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata

import torchvision
from torch import nn

from ..errors import UserError, did_you_mean
from ..rules import KINDS, Rule, Signature
from .attention import A2C2f, AAttn, ABlock, AreaAttn, C2PSA, PSABlock
from .bit import BitDetect
from .blocks import C2, C2f, C3, C3k, C3k2, SPPF, Bottleneck, Concat, RELAN
from .conv import Conv, DWConv, SepConv7x7
from .head import Detect, Raw

__all__ = ["MODULES", "Raw", "lookup", "module_class", "register"]


@dataclass(frozen=True)
class Entry:
    """A module of the graph language: its class (or any callable that makes one) and its rule."""

    cls: type[nn.Module]
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
    "torchvision.ops.Conv2dNormActivation": Entry(torchvision.ops.Conv2dNormActivation, Rule("plain")),
    "Concat": Entry(Concat, Rule("join")),
    "Detect": Entry(Detect, Rule("head", legacy=True)),
    "BitDetect": Entry(BitDetect, Rule("head")),
}

LIBRARIES = {"nn.": nn, "torch.nn.": nn, "torchvision.ops.": torchvision.ops}
GIVEN = {"block": 2, "stage": 3}  # leading constructor arguments that the graph fills in: c_in, c_out, repeats


def register(name: str, cls: type[nn.Module], rule: str | Rule = "block") -> None:
    """Add a module to the graph language: `name` in a row builds `cls` as `rule` says (a key of rules.KINDS, or a Rule).

    Registering the same class again is fine; another class under a taken name, a class that is no nn.Module type or
    callable, or an unknown rule is refused (UserError).
    """
    rule = Rule(rule) if isinstance(rule, str) else rule
    if rule.kind not in KINDS:
        raise UserError(f"register({name!r}): rule {rule.kind!r} is unknown (known: {', '.join(KINDS)})."
                        f"{did_you_mean(rule.kind, KINDS)}")
    if not callable(cls) or not isinstance(name, str) or not name:
        raise UserError(f"register({name!r}, {cls!r}): expected a name and an nn.Module class.")
    if name in MODULES and MODULES[name].cls is not cls:
        raise UserError(f"register({name!r}): the name belongs to {MODULES[name].cls!r}; choose another.")
    MODULES[name] = Entry(cls, rule)


@lru_cache(maxsize=1)
def _load_plugins() -> None:
    for point in metadata.entry_points(group="bitfalcon.modules"):
        try:
            point.load()()
        except Exception as error:  # a broken plugin must name itself; whatever it raised
            raise UserError(f"The plugin {point.name!r} ({point.value}) of the group bitfalcon.modules failed: {error!r}. "
                            "Repair or uninstall it.") from error


def known_modules() -> list[str]:
    """Names that may stand in a row, beside nn.X and torchvision.ops.X."""
    _load_plugins()
    return list(MODULES)


def entry(name: str) -> Entry:
    """The Entry of a module name; KeyError when it is unknown."""
    _load_plugins()
    name = name.removeprefix("torch.") if name.startswith("torch.nn.") else name
    if name in MODULES:
        return MODULES[name]
    for prefix, library in LIBRARIES.items():
        cls = getattr(library, name.removeprefix(prefix), None) if name.startswith(prefix) else None
        if isinstance(cls, type) and issubclass(cls, nn.Module):
            return Entry(cls, Rule("same"))
    raise KeyError(name)


def module_class(name: str) -> type[nn.Module]:
    """The class a module name stands for; KeyError when it is unknown."""
    return entry(name).cls


def lookup(name: str) -> Signature:
    """What the graph needs to know of a module name; KeyError when it is unknown."""
    found = entry(name)
    parameters = [p for p in inspect.signature(found.cls).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    opened = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    written = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][GIVEN.get(found.rule.kind, 0):]
    annotations = tuple((p.name, getattr(p.annotation, "__name__", str(p.annotation))) for p in written)
    return Signature(found.rule, annotations, sum(p.default is p.empty for p in written), opened)
