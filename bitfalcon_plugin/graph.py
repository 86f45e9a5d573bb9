"""A model document to checked rows: what each row is built from, and every problem of a document at once.

A row is `[from, repeats, module, args]`; rows of backbone, neck and head are numbered on in that order. Modules are
known through `lookup`, which gives the Signature of a name, so that third parties can add some. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from .errors import UserError, did_you_mean, raise_problems
from .rules import SCALING, VARIANTS, Signature, activation_name, literal, scale_depth, scale_width

@dataclass(frozen=True)
class Row:
    """One resolved row: constructor arguments, wiring and channels.

    source: as written, for display. sources: absolute row indices, -1 for the image. repeats: after depth scaling.
    times: how many instances stand in a row. channels: what comes out (0 for a head).
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


OTHER_TASKS = frozenset({"Segment", "Classify", "Pose", "OBB", "v10Detect", "RTDETRDecoder", "WorldDetect"})
DOCUMENT_KEYS = frozenset({
    "nc", "names", "scales", "scale", "depth_multiple", "width_multiple", "activation", "ch", "channels", "reg_max",
    "end2end", "inplace", "yaml_file", "variant", "backbone", "neck", "head",
})
LISTS = ("backbone", "neck", "head")
TYPES = {"int": (int, "an integer"), "float": ((int, float), "a number"), "bool": (bool, "True or False")}


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
        raise UserError(f"{name}: a model YAML is a mapping with backbone and head, this is a {type(document).__name__}.")
    reader = _Reader(name, dict(document), lookup, known)
    reader.choose_scale(scale, named_scale)
    reader.choose_variant(variant)
    reader.choose_classes(nc, names)
    reader.read_rows()
    raise_problems(f"{name} cannot be built:", reader.problems)
    return reader.graph()


class _Reader:
    """Collects choices, rows and problems while a document is read."""

    def __init__(self, name: str, document: dict, lookup: Callable[[str], Signature], known: Collection[str]):
        self.name, self.document, self.lookup, self.known = name, document, lookup, known
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.rows: list[Row] = []
        self.scale, self.depth, self.width, self.limit = "", 1.0, 1.0, math.inf
        self.modern = False
        self.image_channels = document.get("ch", document.get("channels", 3)) or 3
        self.reg_max = document.get("reg_max", 16) or 16
        unknown = [str(key) for key in document if key not in DOCUMENT_KEYS]
        if unknown:
            self.notes.append(f"{name}: keys without a meaning here are passed over: {', '.join(sorted(unknown))}")
        if document.get("activation") and activation_name(document["activation"]) is None:
            self.problems.append(f"activation: {document['activation']!r} is not a name such as nn.ReLU() or torch.nn.SiLU()")
        if document.get("end2end"):
            self.problems.append("end2end: True asks for a second set of branches, which is not built here; set it to False")
        for key, value in (("ch", self.image_channels), ("reg_max", self.reg_max)):
            if type(value) is not int or value < 1:
                self.problems.append(f"{key}: {value!r} is not a positive integer")

    def choose_scale(self, asked: str, named: str) -> None:
        scales = self.document.get("scales") or {}
        if not isinstance(scales, Mapping):
            self.problems.append(f"scales: {scales!r} is not a mapping of letter to [depth, width, max_channels]")
            return
        scales = {str(key): value for key, value in scales.items()}
        letter = asked or named or str(self.document.get("scale") or "")
        if letter and letter not in scales and (scales or asked):
            known = f"known: {', '.join(scales)}" if scales else "this YAML has no scales"
            self.problems.append(f"scale: {letter!r} is unknown ({known}).{did_you_mean(letter, scales)}")
            return
        if scales and not letter:
            letter = next(iter(scales))
            self.notes.append(f"{self.name}: no scale given, assuming scale='{letter}' (known: {', '.join(scales)})")
        self.scale = letter
        values = scales.get(letter) or [self.document.get("depth_multiple", 1.0), self.document.get("width_multiple", 1.0)]
        if not _is_scale(values):
            self.problems.append(f"scales: {letter}: {values!r} is not [depth, width, max_channels] of positive numbers")
            return
        self.depth, self.width, self.limit = (*values, math.inf)[:3]

    def choose_variant(self, asked: str | None) -> None:
        written = self.document.get("variant")
        rows = [row for row in self._written_rows() if isinstance(row, Sequence) and len(row) == 4]
        self.attends = any(row[2] == "A2C2f" for row in rows)
        grouped = any(row[2] == "Conv" and isinstance(row[3], Sequence) and len(row[3]) > 4 for row in rows)
        self.variant = asked or written or ("turbo" if grouped and self.attends else "v1")
        if self.variant not in VARIANTS:
            self.problems.append(
                f"variant: {self.variant!r} is unknown (known: {', '.join(VARIANTS)}).{did_you_mean(self.variant, VARIANTS)}"
            )
            self.variant = "v1"
        elif self.attends:
            why = "as asked" if asked else "as the YAML says" if written else "grouped rows" if grouped else "the default"
            self.notes.append(f"{self.name}: variant={self.variant} ({why})")

    def choose_classes(self, nc: int | None, names: Mapping[int, str] | None) -> None:
        own, own_nc = self.document.get("names"), self.document.get("nc")
        if isinstance(own, Mapping):
            if set(own) != set(range(len(own))):
                self.problems.append(f"names: the indices must be 0 to {len(own) - 1}, found {sorted(map(str, own))}")
            own = list(own.values()) if set(own) != set(range(len(own))) else [own[i] for i in range(len(own))]
        if own is not None and (isinstance(own, str) or not isinstance(own, Sequence)):
            self.problems.append(f"names: {own!r} is not a list or a mapping of index to name")
            own = None
        if own_nc is None and own is not None:
            own_nc = len(own)
        if nc is None and (type(own_nc) is not int or own_nc < 1):
            self.problems.append(f"nc: {own_nc!r} is not a positive number of classes")
            own_nc = 1
        if own is not None and own_nc != len(own):
            self.problems.append(f"names: {len(own)} names for nc: {own_nc}")
        if nc is not None and own_nc is not None and nc != own_nc:
            self.notes.append(f"{self.name}: nc={own_nc} of the model becomes nc={nc} of the dataset")
        self.nc = nc if nc is not None else own_nc
        if names is None and own is not None and self.nc == len(own):
            names = dict(enumerate(own))
        self.names = {i: str(name) for i, name in names.items()} if names else {i: str(i) for i in range(self.nc)}

    def _written_rows(self) -> list:
        return [row for key in LISTS if isinstance(self.document.get(key), list) for row in self.document[key]]

    def read_rows(self) -> None:
        for key in LISTS:
            rows = self.document.get(key)
            if rows is None and key != "backbone" and (key == "neck" or self.document.get("neck")):
                continue
            if not isinstance(rows, list) or not rows:
                others = [str(k) for k in self.document if k not in DOCUMENT_KEYS]
                self.problems.append(f"{key}: expected a list of rows, found {rows!r}.{did_you_mean(key, others)}")
                continue
            for row in rows:
                self._read_row(key, row)
        if self.rows and self.rows[-1].kind not in ("head", "unknown"):
            self.problems.append(
                f"the last row is {self.rows[-1].module}; expected a detection head (Detect or BitDetect) that lists its levels"
            )

    def _read_row(self, part: str, row: object) -> None:
        index = len(self.rows)
        where = f"{part} row {index}"
        placeholder = Row(index, -1, (-1,), 1, "?", (), channels=0, kind="unknown")
        if not isinstance(row, list) or len(row) != 4 or not isinstance(row[2], str):
            self.problems.append(f"{where}: {row!r} is not [from, repeats, module, args]")
            self.rows.append(placeholder)
            return
        source, repeats, module, args = row
        where = f"{where} ({module})"
        before = len(self.problems)
        sources = self._read_sources(where, index, source)
        if type(repeats) is not int or repeats < 1:
            self.problems.append(f"{where}: repeats {repeats!r} is not a positive integer")
        signature = self._find(where, module)
        if not isinstance(args, list):
            self.problems.append(f"{where}: args {args!r} is not a list")
        elif signature is not None:
            args = [self._value(arg) for arg in args]
            self._check_arguments(where, signature, args)
        if len(self.problems) > before:
            self.rows.append(placeholder)
            return
        self.rows.append(self._build_row(where, index, source, sources, repeats, module, args, signature) or placeholder)

    def _read_sources(self, where: str, index: int, source: object) -> tuple[int, ...]:
        listed = source if isinstance(source, list) else [source]
        found = []
        for value in listed:
            if type(value) is not int:
                self.problems.append(f"{where}: from {value!r} is not a row number (an integer, or a list of them)")
                continue
            row = value if value >= 0 else index + value
            if not (0 <= row < index or (index == 0 and value == -1)):
                known = f"rows 0 to {index - 1} come before it" if index else "the first row reads the image: -1"
                self.problems.append(f"{where}: from {value} is no earlier row; {known}")
            found.append(row)
        if not listed:
            self.problems.append(f"{where}: from is an empty list")
        return tuple(found)

    def _find(self, where: str, module: str) -> Signature | None:
        try:
            return self.lookup(module)
        except KeyError:
            if module in OTHER_TASKS:
                why = "belongs to a task or a head that is not built here; the detection heads are Detect and BitDetect"
                self.problems.append(f"{where}: module {module!r} {why}")
                return None
            self.problems.append(
                f"{where}: module {module!r} is unknown.{did_you_mean(module, self.known)} Known: {', '.join(sorted(self.known))},"
                " nn.<torch.nn name>, torchvision.ops.<name>"
            )
            return None

    def _value(self, arg: object) -> object:
        variables = {"nc": self.nc, "reg_max": self.reg_max, "ch": self.image_channels, "scale": self.scale,
                     "depth": self.depth, "width": self.width, "max_channels": self.limit}
        return variables[arg] if isinstance(arg, str) and arg in variables else literal(arg)

    def _check_arguments(self, where: str, signature: Signature, args: list) -> None:
        scaled = signature.rule.kind in ("block", "stage")
        names = (["c_out"] if scaled else []) + [name for name, _ in signature.parameters]
        least, most = signature.required + scaled, math.inf if signature.open else len(names)
        if signature.rule.declared_input:
            most += 1
        if signature.rule.kind == "norm":
            least, most = 0, math.inf
        if not least <= len(args) <= most:
            bound = f"{least}" if least == most else f"{least} to {most}" if most < math.inf else f"at least {least}"
            self.problems.append(f"{where}: {len(args)} arguments {args!r}; expected {bound}: ({', '.join(names)})")
            return
        if scaled and (type(args[0]) is not int or args[0] < 1):
            self.problems.append(f"{where}: output channels {args[0]!r} is not a positive integer")
        typed = signature.parameters
        if signature.rule.declared_input and len(args) > 1 and type(args[1]) is int:
            return
        for value, (name, annotation) in zip(args[scaled:], typed, strict=False):
            kind = TYPES.get(annotation)
            wrong = kind and (not isinstance(value, kind[0]) or (annotation != "bool" and isinstance(value, bool)))
            if wrong and not (annotation == "bool" and value in (0, 1)):
                self.problems.append(f"{where}: {name}={value!r} is not {kind[1]}")

    def _build_row(self, where, index, source, sources, repeats, module, args, signature) -> Row | None:
        rule = signature.rule
        inputs = [self.image_channels if row < 0 else self.rows[row].channels for row in sources]
        if any(row >= 0 and self.rows[row].kind == "unknown" for row in sources):
            inputs = [c or 8 for c in inputs]  # a broken row was reported where it stands
        if rule.kind not in ("join", "head") and len(sources) != 1:
            self.problems.append(f"{where}: from {source!r} names {len(sources)} rows, this module takes one")
            return None
        if any(row >= 0 and self.rows[row].kind == "head" for row in sources):
            self.problems.append(f"{where}: from {source!r} names a detection head, whose outputs are not a feature map")
            return None
        self.modern = self.modern or rule.modern
        repeats = scale_depth(repeats, self.depth)
        built, keywords, channels = self._arguments(rule, inputs, args, repeats)
        times = repeats if rule.kind in ("block", "same", "plain") else 1
        shown = tuple(source) if isinstance(source, list) else source
        return Row(index, shown, sources, repeats, module, tuple(built), keywords, times, channels, rule.kind)

    def _arguments(self, rule, inputs: list[int], args: list, repeats: int) -> tuple[list, dict, int]:
        # Constructor arguments, keywords and channels that come out, by the kind of the rule.
        if rule.kind in ("block", "stage"):
            if rule.declared_input and len(args) > 1 and type(args[1]) is int:
                args = args[1:]
            channels = scale_width(args[0], self.width, self.limit)
            rest, keywords = args[1:], {}
            if rule.scaling:
                rest, keywords = SCALING[rule.scaling](rest, self.scale, VARIANTS[self.variant])
            return [inputs[0], channels, *([repeats] if rule.kind == "stage" else []), *rest], keywords, channels
        if rule.kind == "head":
            keywords = {"channels": inputs, "legacy": not self.modern} if rule.legacy else {"channels": inputs}
            return ([*args, self.reg_max] if len(args) == 1 else args), keywords, 0
        channels = {"join": sum(inputs), "plain": args[1] if len(args) > 1 else 0}.get(rule.kind, inputs[0])
        return ([inputs[0]] if rule.kind == "norm" else args), {}, channels

    def graph(self) -> Graph:
        written = self.document.get("activation")
        activation = activation_name(written) if written else None
        document = {**self.document, "nc": self.nc, "names": self.names, "scale": self.scale, "variant": self.variant}
        return Graph(self.name, document, tuple(self.rows), self.nc, self.names, self.scale, self.variant, activation,
                     self.image_channels, tuple(self.notes))


def _is_scale(values: object) -> bool:
    return (isinstance(values, (list, tuple)) and len(values) in (2, 3)
            and all(isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0 for v in values))
