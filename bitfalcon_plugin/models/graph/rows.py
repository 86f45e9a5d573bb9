"""Resolve the rows of a model YAML, and collect all problems before raising.

A row is `[from, repeats, module, args]`; rows of backbone, neck and head are numbered on in that order. Modules are
known through `lookup`, which gives the Signature of a name, so that third parties can add some. Written from
spec/interface.md 3.2 and 3.3. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from ...config.errors import UserError, did_you_mean, raise_problems
from ...config.printable import short_repr
from ...ops.keypoint_layout import KeypointLayout
from .bit_policy import Policy
from .document import KEYPOINT_KEYS, LISTS, Activation, Choices, Overrides, read_choices
from .rules import SCALING, VARIANTS, Signature, literal, mismatch, scale_depth, scale_width

MAX_CHANNELS = 16_384  # largest number of output channels of a row; a larger number is a mistake or an attack
MAX_REPEATS = 1_000  # of a row, and of all rows together
OTHER_HEADS = frozenset({"v10Detect", "RTDETRDecoder", "WorldDetect", "YOLOEDetect"})


@dataclass(frozen=True)
class Row:
    """One resolved row: constructor arguments, wiring and channels.

    source: as in the document, for display. sources: absolute row indices, -1 for the image. repeats: after depth
    scaling. times: how many instances follow each other. channels: those of the output (0 for a head). kind: a key of
    rules.KINDS. location: part, number and module of the row, for messages.
    """

    index: int
    source: int | tuple[int, ...]
    sources: tuple[int, ...]
    repeats: int
    module: str
    args: tuple
    keywords: Mapping[str, object] = field(default_factory=dict)
    times: int = 1
    channels: int = 0
    kind: str = "block"
    location: str = field(default="", compare=False)


@dataclass(frozen=True)
class Graph:
    """A model, resolved: rows to build, and the document and choices from which they can be resolved again."""

    name: str
    document: Mapping[str, object]
    rows: tuple[Row, ...]
    nc: int
    names: dict[int, str]
    scale: str
    variant: str
    activation: Activation | None
    channels: int
    notes: tuple[str, ...] = ()
    bit: tuple[Policy, ...] = ()  # which layers are ternary
    keypoints: KeypointLayout | None = None  # of every object


def resolve(
    document: Mapping[str, object],
    lookup: Callable[[str], Signature],
    known: Collection[str],
    name: str,
    overrides: Overrides,
) -> Graph:
    """Check `document` and resolve its rows; `name` stands for it in messages.

    lookup raises KeyError for a module that it does not know; `known` lists the names of modules for messages.
    Raises UserError with every problem.
    """
    if not isinstance(document, Mapping):
        kind = type(document).__name__
        raise UserError(f"{name}: a model YAML is a mapping with backbone and head, this is a {kind}.")
    problems: list[str] = []
    notes: list[str] = []
    choices = read_choices(document, overrides, problems, notes)
    reader = _RowReader(choices, lookup, known, problems)
    for part, row in _listed_rows(document, problems):
        reader.read(part, row)
    reader.check_last()
    if (total := sum(row.repeats for row in reader.rows)) > MAX_REPEATS:
        problems.append(f"the rows and their repeats are {total} modules, more than {MAX_REPEATS}")
    raise_problems(f"{name} cannot be built:", problems)
    chosen = {key: getattr(choices, key) for key in ("nc", "names", "scale", "variant")}
    others = {key: value for key, value in document.items() if key not in KEYPOINT_KEYS}
    return Graph(
        name,
        {**others, **chosen, **(choices.keypoints.as_keys() if choices.keypoints else {})},
        tuple(reader.rows),
        **chosen,
        activation=choices.activation,
        channels=choices.channels,
        bit=choices.bit,
        keypoints=choices.keypoints,
        notes=tuple(f"{name}: {note}" for note in notes),
    )


def _listed_rows(document: Mapping, problems: list[str]) -> list[tuple[str, object]]:
    """(part, row) for every row of the document, in order."""
    rows = []
    for part in LISTS:
        listed = document.get(part)
        is_optional = part == "neck" or (part == "head" and document.get("neck"))
        if isinstance(listed, list) and listed:
            rows += [(part, row) for row in listed]
        elif listed is not None or not is_optional:
            problems.append(
                f"{part}: expected a list of rows [from, repeats, module, args], found {short_repr(listed)}"
            )
    return rows


class _RowReader:
    """Reads rows one after the other. A broken row is replaced by a stand-in, so that later rows are still checked."""

    def __init__(
        self, choices: Choices, lookup: Callable[[str], Signature], known: Collection[str], problems: list[str]
    ):
        self.choices, self.lookup, self.known, self.problems = choices, lookup, known, problems
        self.rows: list[Row] = []
        self.modern = False  # whether an earlier row has Rule.modern; the head then uses the separable class branch
        self.location = ""  # of the row that is read
        self.variables = {
            "nc": choices.nc,
            "reg_max": choices.reg_max,
            "kpt_shape": choices.keypoints and choices.keypoints.shape,
            "ch": choices.channels,
            "scale": choices.scale,
            "depth": choices.depth,
            "width": choices.width,
            "max_channels": choices.limit,
        }

    def problem(self, text: str) -> None:
        self.problems.append(f"{self.location}: {text}")

    def read(self, part: str, listed: object) -> None:
        """Read the next row, which the document lists in `part`."""
        index = len(self.rows)
        self.location = f"{part} row {index}"
        row = self._row(index, listed)
        self.rows.append(row or Row(index, -1, (-1,), 1, "?", (), channels=8, kind="broken", location=self.location))

    def check_last(self) -> None:
        """Check that the last row is a head, and no other row."""
        for row in self.rows:
            self.location, is_last = row.location, row is self.rows[-1]
            if is_last and row.kind not in ("head", "broken"):
                self.problem("expected a head in the last row, such as [[its levels], 1, Detect, [nc]]")
            elif not is_last and row.kind == "head":
                self.problem(f"a head must be the last row; {len(self.rows) - 1 - row.index} follow")

    def _row(self, index: int, listed: object) -> Row | None:
        if not isinstance(listed, list) or len(listed) != 4 or not isinstance(listed[2], str):
            self.problem(f"{short_repr(listed)} is not [from, repeats, module, args]")
            return None
        source, repeats, module, args = listed
        self.location += f" ({short_repr(module)[1:-1]})"
        before = len(self.problems)
        signature = self._signature(module)
        sources = self._sources(index, source, signature)
        self._check_repeats(repeats, signature)
        args = self._arguments(args, signature)
        if len(self.problems) > before:
            return None
        return self._scaled(index, source, sources, repeats, module, args, signature)

    def _signature(self, module: str) -> Signature | None:
        try:
            return self.lookup(module)
        except KeyError:
            pass
        if module in OTHER_HEADS:
            heads = "Detect, BitDetect, Segment, Classify, Pose and OBB"
            text = f"is a head that is not built here; the heads are {heads}"
        else:
            names = ", ".join(sorted(name for name in self.known if "." not in name))
            hint = did_you_mean(module[:80], self.known)
            text = f"is unknown.{hint} Known: {names}, nn.<name in torch.nn>, torchvision.ops.<name>"
        self.problem(f"module {short_repr(module)} {text}")
        return None

    def _sources(self, index: int, source: object, signature: Signature | None) -> tuple[int, ...]:
        values = source if isinstance(source, list) else [source]
        before, rows = len(self.problems), []
        for value in values:
            row = value + index if type(value) is int and value < 0 else value
            if type(row) is not int:
                self.problem(f"from {short_repr(value)} is not a row number (an integer, or a list of them)")
            elif not (0 <= row < index or row == index - 1):
                earlier = f"rows 0 to {index - 1} come before it" if index else "the first row reads the image: -1"
                self.problem(f"from {short_repr(value)} is no earlier row; {earlier}")
            elif row >= 0 and self.rows[row].kind == "head":
                self.problem(f"from {value} is a head, whose outputs are not a feature map")
            else:
                rows.append(row)
        single = signature is not None and signature.rule.kind not in ("join", "head")
        if len(self.problems) == before and (not values or single and len(values) != 1):
            expected = "one" if single else "at least one"
            self.problem(f"from {short_repr(source)} names {len(values)} rows, this module takes {expected}")
        return tuple(rows)

    def _check_repeats(self, repeats: object, signature: Signature | None) -> None:
        if type(repeats) is not int or repeats < 1:
            self.problem(f"repeats {short_repr(repeats)} is not an integer of 1 or more")
        elif repeats > MAX_REPEATS or scale_depth(repeats, self.choices.depth) > MAX_REPEATS:
            self.problem(f"repeats {short_repr(repeats)} x depth {self.choices.depth} is more than {MAX_REPEATS}")
        elif repeats > 1 and signature is not None and signature.rule.kind in ("join", "head"):
            self.problem(f"repeats {repeats}: this module stands once; write 1")

    def _arguments(self, args: object, signature: Signature | None) -> list:
        """The checked arguments, with values for words such as nc; c_out comes first, where there is one."""
        if not isinstance(args, list):
            self.problem(f"args {short_repr(args)} is not a list")
        if not isinstance(args, list) or signature is None or signature.rule.kind == "norm":
            return []
        args = [self.variables.get(arg, literal(arg)) if isinstance(arg, str) else arg for arg in args]
        if signature.rule.declared_input and len(args) > 1 and type(args[0]) is int and type(args[1]) is int:
            args = args[1:]  # the true width comes from the graph
        scaled = signature.rule.kind in ("block", "stage")
        parameters = (("c_out", "int"),) * scaled + signature.parameters
        minimum = max(signature.required + scaled, 2 if signature.rule.kind == "plain" else 0)
        maximum = math.inf if signature.accepts_more else len(parameters)
        if not minimum <= len(args) <= maximum:
            expected = f"at least {minimum}" if signature.accepts_more else f"{minimum} to {maximum}"
            expected = f"{minimum}" if minimum == maximum else expected
            names = ", ".join(name for name, _ in parameters)
            self.problem(f"{len(args)} arguments {short_repr(args)}; expected {expected}: ({names})")
            return []
        self._check_values(args, parameters, signature.rule.kind)
        return args

    def _check_values(self, args: list, parameters: tuple[tuple[str, str], ...], kind: str) -> None:
        width = {"block": 0, "stage": 0, "plain": 1}.get(kind)  # the argument that is the number of output channels
        parameters += (("argument", ""),) * len(args)  # of a constructor that takes any number
        for index, (value, (name, annotation)) in enumerate(zip(args, parameters, strict=False)):
            expected = mismatch("int" if index == width else annotation, value)
            if index == width and not expected and not 1 <= value <= MAX_CHANNELS:
                expected = f"from 1 to {MAX_CHANNELS}"
            if expected:
                self.problem(f"{name}={short_repr(value)} is not {expected}")
            elif kind == "head" and name in ("nc", "kpt_shape"):
                self._check_word(name, value)

    def _check_word(self, name: str, value: object) -> None:
        """Check an argument of a head that the dataset may change, so that the row must not state another value."""
        expected = self.variables[name]
        if expected is None and any(problem.startswith(f"{name}:") for problem in self.problems):
            return  # it is given, and told to be wrong
        if expected is None:
            self.problem(f"{name} is not given: the model needs a key such as {name}: [17, 3]")
        elif (tuple(value) if isinstance(value, (list, tuple)) else value) != expected:
            shape = list(expected) if isinstance(expected, tuple) else expected
            self.problem(f"{name}={short_repr(value)}, but the model has {name}={shape}; write the word {name}")

    def _scaled(self, index, source, sources, repeats, module, args, signature) -> Row | None:
        rule, choices = signature.rule, self.choices
        inputs = [choices.channels if row < 0 else self.rows[row].channels for row in sources]
        self.modern = self.modern or rule.modern
        repeats = scale_depth(repeats, choices.depth)
        keywords: dict[str, object] = {}
        if rule.kind in ("block", "stage"):
            channels = scale_width(args[0], choices.width, choices.limit)
            options = args[1:]
            if rule.scaling:
                options, keywords = SCALING[rule.scaling](options, choices.scale, VARIANTS[choices.variant])
            args = [inputs[0], channels, *([repeats] if rule.kind == "stage" else []), *options]
        elif rule.kind == "head":
            channels = 0
            args, keywords = self._head_arguments(args, signature, inputs)
        else:  # a join has several inputs, the others one
            channels = args[1] if rule.kind == "plain" else sum(inputs)
            args = inputs if rule.kind == "norm" else args
        if channels > MAX_CHANNELS:
            self.problem(f"{channels} channels come out, more than {MAX_CHANNELS}")
            return None
        source = tuple(source) if isinstance(source, list) else source
        times = 1 if rule.kind in ("stage", "join", "head") else repeats
        row = (index, source, sources, repeats, module, tuple(args), keywords, times, channels, rule.kind)
        return Row(*row, self.location)

    def _head_arguments(self, args: list, signature: Signature, inputs: list[int]) -> tuple[list, dict[str, object]]:
        rule, choices = signature.rule, self.choices
        keywords: dict[str, object] = {"channels": inputs}
        if 0 < rule.scaled < len(args):
            width = scale_width(args[rule.scaled], choices.width, choices.limit)
            args = [*args[: rule.scaled], width, *args[rule.scaled + 1 :]]
        names = [name for name, _ in signature.parameters]
        if "reg_max" in names[len(args) :]:
            if names.index("reg_max") == len(args):
                args = [*args, choices.reg_max]
            else:
                keywords["reg_max"] = choices.reg_max
        if rule.legacy:
            keywords["legacy"] = not self.modern
        if rule.class_width and choices.class_width:
            keywords["class_width"] = choices.class_width
        return args, keywords
