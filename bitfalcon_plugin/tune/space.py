"""The space of a search: which settings are searched, in which ranges, and where the search begins."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..config.default_table import active_settings
from ..config.errors import UserError, did_you_mean, raise_problems
from ..config.files import cfg_dir
from ..config.settings import Settings, draft_of
from ..config.unused import MIXING
from ..config.values import show
from ..config.yaml_files import load_yaml

SEARCHABLE = {"int", "float", "fraction", "batch", "size"}  # types of settings that a range can be of
EXAMPLE = "for example space={'lr0': (1e-5, 1e-1)}"
FORM = "expected (min, max), or a list of choices"
MAX_CHOICES = 1000
FARTHEST = 1e300  # a number of a range lies between -FARTHEST and this; NaN does not
STEP = 0.2  # of a range: how far values near the best ones are drawn
Space = dict[str, "Range | Choices"]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included. log: drawn evenly by their logarithm. whole: whole numbers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def including(self, value: object) -> Range:
        """Return the range, extended to hold a number."""
        if not isinstance(value, (int, float)) or self.log and value <= 0:
            return self
        return Range(min(self.low, value), max(self.high, value), self.log, self.whole)

    def nearest(self, value: object) -> float | None:
        """Return the number of the range that is nearest to `value`; None where that is no number."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return min(max(value, self.low), self.high)

    def near(self, value: float, generator: random.Random) -> float:
        """Return a number that is drawn around `value`, with a standard deviation of STEP of the range."""
        ends = (self.low, value, self.high)
        low, middle, high = map(math.log, ends) if self.log else ends
        drawn = min(max(generator.gauss(middle, STEP * (high - low)), low), high)
        number = min(max(math.exp(drawn) if self.log else drawn, self.low), self.high)
        return round(number) if self.whole else number

    def draw(self, trial, key: str) -> float:
        """Let a trial of Optuna choose a number."""
        if self.whole:
            return trial.suggest_int(key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)

    def plain(self) -> dict[str, object]:
        """Return the range as it stands in a YAML."""
        return {"min": self.low, "max": self.high, **({"log": True} if self.log else {})}


@dataclass(frozen=True)
class Choices:
    """A list of values without an order."""

    values: tuple[object, ...]

    def including(self, value: object) -> Choices:
        """Return the choices unchanged."""
        return self

    def nearest(self, value: object) -> object:
        """Return `value` where it is one of the choices, otherwise None."""
        return value if value in self.values else None

    def near(self, value: object, generator: random.Random) -> object:
        """Return one of the choices, each as likely."""
        return generator.choice(self.values)

    def draw(self, trial, key: str) -> object:
        """Let a trial of Optuna choose a value."""
        return trial.suggest_categorical(key, list(self.values))

    def plain(self) -> dict[str, object]:
        """Return the choices as they stand in a YAML."""
        return {"choices": list(self.values)}


def default_space() -> Space:
    """Return the space of cfg/tune.yaml."""
    return read_space(_shipped(), "cfg/tune.yaml")


@functools.cache
def _shipped() -> Mapping[str, Mapping]:
    return load_yaml(cfg_dir() / "tune.yaml")


def space_of(
    settings: Settings, has_outlines: bool = True, means_nothing: Mapping[str, str] = MappingProxyType({})
) -> tuple[Space, list[str]]:
    """Return the space of a search, and notes about it.

    space= replaces the ranges of cfg/tune.yaml. Of those, keys that have no effect with the other settings are left
    out, and ranges grow to hold the values that the user gave. has_outlines: whether any label is a polygon.
    means_nothing: settings that mean nothing to the task -> why. Raises UserError with all that is wrong in space=.
    """
    unused = {**_unused(settings, has_outlines), **means_nothing}
    if settings.space is None:
        space = default_space()
        left_out = [f"{key} ({unused[key]})" for key in space if key in unused]
        given = {key: getattr(settings, key) for key in space if key in settings.given}
        space = {key: values.including(given.get(key)) for key, values in space.items() if key not in unused}
        notes = [f"not searched, for it has no effect: {', '.join(left_out)}."] if left_out else []
        begins = [f"{key}={value}" for key, value in given.items() if key in space]
        if begins:
            notes.append(f"the search begins at {', '.join(begins)}; space= says what is searched.")
        return space, notes
    where, given = "space=", settings.space
    if isinstance(given, str):
        where, given = f"space={given}", load_yaml(_file(given))
    space = read_space(given, where)
    return space, [f"{key} is searched, but has no effect: {unused[key]}." for key in space if key in unused]


def _file(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"space={name}: there is no such file. Give a YAML like cfg/tune.yaml, or {EXAMPLE} .")
    return path


def _unused(settings: Settings, has_outlines: bool) -> dict[str, str]:
    """Return the hyper-parameters that change nothing with these settings, and why."""
    unused: dict[str, str] = {}
    if settings.optimizer == "auto":
        unused |= dict.fromkeys(("lr0", "momentum", "warmup_bias_lr"), "optimizer=auto chooses it")
    if settings.optimizer not in ("SGD", "RMSProp"):
        unused["warmup_momentum"] = "it is for optimizer=SGD and RMSProp"
    if not has_outlines:
        unused["copy_paste"] = "no label has an outline"
    if settings.rect:
        unused |= dict.fromkeys((*MIXING, "close_mosaic"), "rect=True: images are not mixed")
    return unused


def start_of(space: Space, settings: Settings) -> dict[str, object]:
    """Return the values of the first trial: those of the settings, moved into their ranges."""
    values = {key: values.nearest(getattr(settings, key)) for key, values in space.items()}
    return {key: value for key, value in values.items() if value is not None}


def near(space: Space, values: Mapping[str, object], seed: int) -> dict[str, object]:
    """Return `values` with about half of them, one at least, drawn anew in their neighbourhood."""
    generator = random.Random(seed)
    changed = [key for key in space if generator.random() < 0.5] or [generator.choice(list(space))]
    drawn = {key: space[key].near(values[key], generator) for key in changed}
    return {**values, **drawn}


def read_space(given: Mapping, where: str) -> Space:
    """Read a space: key -> (min, max), (min, max, gain), a list of choices, a mapping as in cfg/tune.yaml, or a
    distribution of Optuna or Ray. Raises UserError with all problems, which begin with `where`."""
    if not isinstance(given, Mapping) or not given:
        raise UserError(f"{where}: expected a mapping of settings to ranges, {EXAMPLE} .")
    problems: list[str] = []
    space: Space = {}
    for key, value in given.items():
        try:
            space[str(key)] = _read(str(key), value)
        except UserError as error:
            problems.append(str(error))
    raise_problems(f"{where} cannot be searched:", problems)
    return space


def _read(key: str, value: object) -> Range | Choices:
    row = active_settings().get(key)
    if row is None:
        raise UserError(f"{key}: there is no such setting.{did_you_mean(key, active_settings())}")
    kinds = set(row["type"].split("|"))
    low, high, log, choices = _parts(value)
    if choices is not None:
        if len(choices) > MAX_CHOICES:
            raise UserError(f"{key}: {len(choices)} choices; expected at most {MAX_CHOICES}.")
        _check(key, choices)
        return Choices(tuple(choices))
    numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not all(-FARTHEST < end < FARTHEST for end in (low, high)):
        raise UserError(f"{key}: {show(value)}; {FORM}, {EXAMPLE}.")
    if not kinds & SEARCHABLE:
        raise UserError(f"{key}: this setting is no number; give a list of choices, for example {key}: [a, b].")
    if low >= high:
        raise UserError(f"{key}: {show(value)}; the first number is the smallest one, and below the second.")
    if log and low <= 0:
        raise UserError(f"{key}: {show(value)}; a logarithmic range begins above 0.")
    _check(key, (low, high))
    by_logarithm = low > 0 and bool(_shipped().get(key, {}).get("log")) if log is None else bool(log)
    return Range(low, high, by_logarithm, not kinds & {"float", "fraction"})


def _check(key: str, values: Sequence[object]) -> None:
    """Raise UserError for values that the setting does not take."""
    problems = [problem for value in values for problem in draft_of({key: value}).problems]
    if problems:
        raise UserError("; ".join(dict.fromkeys(problems)))


def _parts(value: object) -> tuple[object, object, bool | None, Sequence | None]:
    """Return (low, high, log, choices) of a value of space=; log is None where the value does not tell."""
    if isinstance(value, Mapping):
        choices = value.get("choices")
        log = value.get("log", None if "choices" in value else False)
        return value.get("min"), value.get("max"), log, list(choices) if isinstance(choices, (list, tuple)) else None
    if isinstance(value, (list, tuple)):
        numbers = all(isinstance(part, (int, float)) and not isinstance(part, bool) for part in value)
        # A third number of a tuple, the gain of a mutation, means nothing here; a list of three is of choices.
        if numbers and len(value) in ((2, 3) if isinstance(value, tuple) else (2,)):
            return value[0], value[1], None, None
        return None, None, None, list(value) or None
    for low, high in (("low", "high"), ("lower", "upper")):  # a distribution of Optuna, a domain of Ray
        if hasattr(value, low) and hasattr(value, high):
            log = getattr(value, "log", "log" in type(getattr(value, "sampler", None)).__name__.lower())
            return getattr(value, low), getattr(value, high), bool(log), None
    choices = getattr(value, "choices", getattr(value, "categories", None))
    return None, None, None, list(choices) if choices is not None else None
