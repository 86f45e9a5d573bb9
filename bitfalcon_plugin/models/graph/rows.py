"""A model document to checked rows: what each row is built from, and every problem of a document at once.

A row is `[from, repeats, module, args]`; rows of backbone, neck and head are numbered on in that order. Modules are
known through `lookup`, which gives the Signature of a name, so that third parties can add some. Written from
spec/interface.md 3.2 and 3.3. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from ...config.errors import UserError, did_you_mean, raise_problems
from .bit_policy import Policy
from .document import LISTS, Choices, choose
from .rules import SCALING, VARIANTS, Signature, literal, mismatch, scale_depth, scale_width, shown

MAX_CHANNELS = 16_384  # out of one row; more (in a probe of 256 px, 4 GB a map) is a slip, or meant to do harm
MAX_REPEATS = 1_000
OTHER_TASKS = frozenset(
    {"Segment", "Classify", "Pose", "OBB", "v10Detect", "RTDETRDecoder", "WorldDetect", "YOLOEDetect"}
)


@dataclass(frozen=True)
class Row:
    """One resolved row: constructor arguments, wiring and channels.

    source: as written, for display. sources: absolute row indices, -1 for the image. repeats: after depth scaling.
    times: how many instances stand in a row. channels: what comes out (0 for a head). kind: of rules.KINDS. place:
    where it stands, for messages.
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
    place: str = field(default="", compare=False)


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
    activation: tuple[str, tuple, Mapping[str, object]] | None
    channels: int
    notes: tuple[str, ...] = ()
    bit: tuple[Policy, ...] = ()  # which layers are ternary


def resolve(
    document: Mapping[str, object],
    lookup: Callable[[str], Signature],
    known: Collection[str],
    *,
    name: str = "model",
    scale: str = "",
    named_scale: str = "",
    variant: str | None = None,
    nc: int | None = None,
    names: Mapping[int, str] | None = None,
) -> Graph:
    """Check `document` and resolve its rows.

    scale: asked for (must be one of its `scales`); named_scale: the letter in the file name, used when nothing was
    asked for. variant: v1, turbo or turbo-all-residual, over the document's own key. nc, names: of the dataset, over
    the document's own. lookup raises KeyError for a name it does not know; `known` lists the names for messages.
    Raises UserError with every problem found.
    """
    if not isinstance(document, Mapping):
        kind = type(document).__name__
        raise UserError(f"{name}: a model YAML is a mapping with backbone and head, this is a {kind}.")
    problems: list[str] = []
    notes: list[str] = []
    choices = choose(document, problems, notes, scale, named_scale, variant, nc, names)
    reader = _Rows(choices, lookup, known, problems)
    for part, row in _written_rows(document, problems):
        reader.read(part, row)
    reader.check_last()
    raise_problems(f"{name} cannot be built:", problems)
    chosen = {"nc": choices.nc, "names": choices.names, "scale": choices.scale, "variant": choices.variant}
    return Graph(
        name,
        {**document, **chosen},
        tuple(reader.rows),
        **chosen,
        activation=choices.activation,
        channels=choices.channels,
        bit=choices.bit,
        notes=tuple(f"{name}: {note}" for note in notes),
    )


def _written_rows(document: Mapping, problems: list[str]) -> list[tuple[str, object]]:
    found = []
    for key in LISTS:
        rows = document.get(key)
        optional = key == "neck" or (key == "head" and document.get("neck"))
        if rows is None and optional:
            continue
        if not isinstance(rows, list) or not rows:
            problems.append(f"{key}: expected a list of rows [from, repeats, module, args], found {shown(rows)}")
            continue
        found += [(key, row) for row in rows]
    return found


class _Rows:
    """Reads rows one after the other. A broken row keeps its place, so that the rows after it are still checked."""

    def __init__(
        self, choices: Choices, lookup: Callable[[str], Signature], known: Collection[str], problems: list[str]
    ):
        self.choices, self.lookup, self.known, self.problems = choices, lookup, known, problems
        self.rows: list[Row] = []
        self.modern = False  # whether a row so far asks for the separable class branch
        self.where = ""  # the place of the row that is read
        self.variables = {
            "nc": choices.nc,
            "reg_max": choices.reg_max,
            "ch": choices.channels,
            "scale": choices.scale,
            "depth": choices.depth,
            "width": choices.width,
            "max_channels": choices.limit,
        }

    def problem(self, text: str) -> None:
        self.problems.append(f"{self.where}: {text}")

    def read(self, part: str, written: object) -> None:
        """Read the next row of the list `part`."""
        index = len(self.rows)
        self.where = f"{part} row {index}"
        row = self._row(index, written)
        self.rows.append(row or Row(index, -1, (-1,), 1, "?", (), channels=8, kind="broken", place=self.where))

    def check_last(self) -> None:
        """A detection head must be the last row, and the only one."""
        for row in self.rows:
            self.where, last = row.place, row is self.rows[-1]
            if last and row.kind not in ("head", "broken"):
                self.problem("expected a detection head in the last row, such as [[its levels], 1, Detect, [nc]]")
            elif not last and row.kind == "head":
                self.problem(f"a detection head must be the last row; {len(self.rows) - 1 - row.index} follow")

    def _row(self, index: int, written: object) -> Row | None:
        if not isinstance(written, list) or len(written) != 4 or not isinstance(written[2], str):
            self.problem(f"{shown(written)} is not [from, repeats, module, args]")
            return None
        source, repeats, module, args = written
        self.where += f" ({shown(module)[1:-1]})"
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
            ours = ", ".join(sorted(name for name in self.known if "." not in name))
            self.problem(
                f"module {module!r} belongs to a task or a head that is not built here; the detection heads "
                "are Detect and BitDetect"
                if module in OTHER_TASKS
                else f"module {shown(module)} is unknown.{did_you_mean(module[:80], self.known)} Known: {ours}, "
                "nn.<name in torch.nn>, torchvision.ops.<name>"
            )
            return None

    def _sources(self, index: int, source: object, signature: Signature | None) -> tuple[int, ...]:
        listed = source if isinstance(source, list) else [source]
        before, found = len(self.problems), []
        for value in listed:
            row = value + index if type(value) is int and value < 0 else value
            if type(row) is not int:
                self.problem(f"from {shown(value)} is not a row number (an integer, or a list of them)")
            elif not (0 <= row < index or row == index - 1):
                earlier = f"rows 0 to {index - 1} come before it" if index else "the first row reads the image: -1"
                self.problem(f"from {shown(value)} is no earlier row; {earlier}")
            elif row >= 0 and self.rows[row].kind == "head":
                self.problem(f"from {value} is a detection head, whose outputs are not a feature map")
            else:
                found.append(row)
        single = signature is not None and signature.rule.kind not in ("join", "head")
        if len(self.problems) == before and (not listed or single and len(listed) != 1):
            taken = "one" if single else "at least one"
            self.problem(f"from {shown(source)} names {len(listed)} rows, this module takes {taken}")
        return tuple(found)

    def _check_repeats(self, repeats: object, signature: Signature | None) -> None:
        if type(repeats) is not int or repeats < 1:
            self.problem(f"repeats {shown(repeats)} is not an integer of 1 or more")
        elif repeats > MAX_REPEATS or scale_depth(repeats, self.choices.depth) > MAX_REPEATS:
            self.problem(f"repeats {shown(repeats)} x depth {self.choices.depth} is more than {MAX_REPEATS}")
        elif repeats > 1 and signature is not None and signature.rule.kind in ("join", "head"):
            self.problem(f"repeats {repeats}: this module stands once; write 1")

    def _arguments(self, args: object, signature: Signature | None) -> list:
        # Checked, and without strings that mean something else; c_out, where there is one, comes first.
        if not isinstance(args, list):
            self.problem(f"args {shown(args)} is not a list")
        if not isinstance(args, list) or signature is None or signature.rule.kind == "norm":
            return []
        args = [self.variables.get(arg, literal(arg)) if isinstance(arg, str) else arg for arg in args]
        if signature.rule.declared_input and len(args) > 1 and type(args[0]) is int and type(args[1]) is int:
            args = args[1:]  # the true width comes from the graph
        scaled = signature.rule.kind in ("block", "stage")
        parameters = (("c_out", "int"),) * scaled + signature.parameters
        least = max(signature.required + scaled, 2 if signature.rule.kind == "plain" else 0)
        most = math.inf if signature.open else len(parameters)
        if not least <= len(args) <= most:
            count = f"{least}" if least == most else f"{least} to {most}" if most < math.inf else f"at least {least}"
            names = ", ".join(name for name, _ in parameters)
            self.problem(f"{len(args)} arguments {shown(args)}; expected {count}: ({names})")
            return []
        self._check_values(args, parameters, signature.rule.kind)
        return args

    def _check_values(self, args: list, parameters: tuple[tuple[str, str], ...], kind: str) -> None:
        width = {"block": 0, "stage": 0, "plain": 1}.get(kind)  # which argument is the number of channels that come out
        parameters += (("argument", ""),) * len(args)  # of a constructor that takes any number
        for place, (value, (name, annotation)) in enumerate(zip(args, parameters, strict=False)):
            expected = mismatch("int" if place == width else annotation, value)
            if place == width and not expected and not 1 <= value <= MAX_CHANNELS:
                expected = f"from 1 to {MAX_CHANNELS}"
            if expected:
                self.problem(f"{name}={shown(value)} is not {expected}")
            elif kind == "head" and name == "nc" and value != self.choices.nc:
                self.problem(f"nc={shown(value)}, but the model has nc={self.choices.nc}; write the word nc")

    def _scaled(self, index, source, sources, repeats, module, args, signature) -> Row | None:
        rule, choices = signature.rule, self.choices
        inputs = [choices.channels if row < 0 else self.rows[row].channels for row in sources]
        self.modern = self.modern or rule.modern
        repeats = scale_depth(repeats, choices.depth)
        keywords: dict[str, object] = {}
        if rule.kind in ("block", "stage"):
            channels = scale_width(args[0], choices.width, choices.limit)
            rest = args[1:]
            if rule.scaling:
                rest, keywords = SCALING[rule.scaling](rest, choices.scale, VARIANTS[choices.variant])
            args = [inputs[0], channels, *([repeats] if rule.kind == "stage" else []), *rest]
        elif rule.kind == "head":
            if len(args) == 1 and [name for name, _ in signature.parameters][1:2] == ["reg_max"]:
                args = [*args, choices.reg_max]
            channels, keywords = 0, {"channels": inputs}
            if rule.legacy:
                keywords["legacy"] = not self.modern
            if rule.class_width and choices.class_width:
                keywords["class_width"] = choices.class_width
        else:  # one input, but for a join
            channels = args[1] if rule.kind == "plain" else sum(inputs)
            args = inputs if rule.kind == "norm" else args
        if channels > MAX_CHANNELS:
            self.problem(f"{channels} channels come out, more than {MAX_CHANNELS}")
            return None
        shown_source = tuple(source) if isinstance(source, list) else source
        times = 1 if rule.kind in ("stage", "join", "head") else repeats
        return Row(
            index, shown_source, sources, repeats, module, tuple(args), keywords, times, channels, rule.kind, self.where
        )
