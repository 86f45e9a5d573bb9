"""torch.export archives (.pt2), run by torch operation by operation.

torch.export.load unpickles, and evaluates texts of the file as formulas; its own page warns of files of others. Here the archive is
read as what it is, JSON and raw tensors: a list of operations, each of the aten library by its full name, with plain arguments.
Nothing is unpickled, evaluated or compiled, opening takes milliseconds instead of seconds, and the device is free. Operations are
those of OPERATIONS only: others of the library reach files, or trust sizes that they are given and read past their data.
"""

from __future__ import annotations

import json
import operator
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..metadata import read_metadata
from .runtime import Runtime, unreadable

EXTRA = "extra/config.txt"
MOST_JSON = 200_000_000  # bytes
NAMED = re.compile(r"torch\.ops\.aten\.(_{0,2}[a-z]\w*)\.(\w+)", re.ASCII)
MOST_PACKED = 20  # times the size of the file
MOST_NUMBER = 2**63  # as torch has them
MOST_CREATED = 100_000_000  # numbers of a tensor that an operation makes from nothing
NUMBERS = {
    f"_operator.{name}": getattr(operator, name)
    for name in (
        "add",
        "sub",
        "mul",
        "floordiv",
        "mod",
        "neg",
        "getitem",
        "ge",
        "le",
        "eq",
        "gt",
        "lt",
        "ne",
        "truediv",
    )
}
# What detectors are made of. Each computes from the values of tensors, checks the sizes it gets, and knows no file, address or
# raw memory. A name alone stands for its overload `default`.
CREATING = frozenset(
    f"{name}{'' if '.' in name else '.default'}"
    for name in """
    arange arange.start arange.start_step full full_like new_full new_ones new_zeros ones ones_like zeros zeros_like""".split()
)
OPERATIONS = CREATING | frozenset(
    f"{name}{'' if '.' in name else '.default'}"
    for name in """
    __and__.Tensor __or__.Tensor abs add.Scalar add.Tensor add_.Scalar add_.Tensor atan atan2 bitwise_and.Tensor bitwise_not
    bitwise_or.Tensor ceil clamp clamp.Tensor clamp_ clamp_max clamp_min copy_ cos div.Scalar div.Tensor div_.Scalar div_.Tensor elu elu_
    eq.Scalar eq.Tensor erf exp exp_ fill_.Scalar floor ge.Scalar ge.Tensor gelu gt.Scalar gt.Tensor hardsigmoid hardsigmoid_ hardswish
    hardswish_ hardtanh hardtanh_ le.Scalar le.Tensor leaky_relu leaky_relu_ log log1p log_softmax.int logical_and logical_not logical_or
    lt.Scalar lt.Tensor masked_fill.Scalar masked_fill.Tensor maximum minimum mish mish_ mul.Scalar mul.Tensor mul_.Scalar mul_.Tensor
    ne.Scalar ne.Tensor neg pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor prelu reciprocal relu relu6 relu6_ relu_ round round_ rsqrt
    rsub.Scalar sigmoid sigmoid_ sign silu silu_ sin softmax.int softplus sqrt square sub.Scalar sub.Tensor sub_.Scalar sub_.Tensor tanh
    tanh_ where.ScalarOther where.ScalarSelf where.self

    alias broadcast_to cat chunk clone constant_pad_nd contiguous detach detach_ expand expand_as flatten.using_ints flip lift_fresh_copy
    meshgrid meshgrid.indexing movedim.int narrow pad permute pixel_shuffle pixel_unshuffle reflection_pad2d repeat replication_pad2d
    reshape roll scalar_tensor select.int slice.Tensor split.Tensor split_with_sizes squeeze squeeze.dim squeeze.dims stack sym_numel
    sym_size.int t tile transpose.int type_as to.dtype to.dtype_layout _to_copy unbind.int unflatten.int unsqueeze view view_as

    amax amin argmax argmin argsort cumsum gather index.Tensor index_select max max.dim mean mean.dim min min.dim prod.dim_int sort
    std.correction sum sum.dim_IntList topk var.correction

    _softmax adaptive_avg_pool2d adaptive_max_pool2d addmm avg_pool2d baddbmm batch_norm bmm conv1d conv2d conv2d.padding
    conv_transpose2d.input convolution dropout dropout_ einsum grid_sampler group_norm instance_norm layer_norm linear matmul max_pool2d
    max_pool2d_with_indices mm scaled_dot_product_attention upsample_bilinear2d upsample_bilinear2d.vec upsample_nearest2d
    upsample_nearest2d.vec""".split()
)
LEFT_OUT = {
    "_assert_scalar",
    "_assert_tensor_metadata",
    "sym_constrain_range_for_size",
    "sym_constrain_range",
    "_assert_async",
}
# Numbers of torch's own schema (torch/_export/serde/schema.py).
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
MEMORY = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
PLAIN = ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string", "as_strings")


class Pt2Runtime(Runtime):
    """A .pt2 file of torch 2.8 or newer, on any device that torch has."""

    format = "pt2"

    def __init__(self, path: Path, device: torch.device, half: bool = False):
        try:
            texts, program, weights = _read(path)
        except Exception as error:  # whatever is not what torch.export writes
            raise unreadable(path, "a torch.export archive", error) from error
        about = read_metadata(texts if isinstance(texts, dict) else {}, path)
        try:
            self._program = Program(program, weights, device)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
            raise unreadable(path, "a torch.export archive", error) from error
        dynamic = bool(about.args.get("dynamic"))
        super().__init__(path, about, device, None if dynamic else about.batch, None if dynamic else about.imgsz)
        self.runtime = f"torch {torch.__version__} (torch.export)"

    def _run(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self._program(images.to(self.device).contiguous())


def check_packing(archive: zipfile.ZipFile, path: Path) -> None:
    """ValueError where an archive would unpack to far more than its own size. torch packs nothing, other programs halve code."""
    if sum(item.file_size for item in archive.infolist()) > MOST_JSON + MOST_PACKED * path.stat().st_size:
        raise ValueError("it unpacks to more than a detector has")


def _read(path: Path) -> tuple[object, Mapping, dict[str, Tensor]]:
    # Metadata, the program as JSON, and its tensors by the names of its parameters and constants.
    with zipfile.ZipFile(path) as archive:
        check_packing(archive, path)
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if (
            sum(archive.getinfo(names[name]).file_size for name in names if name.endswith((".json", ".txt")))
            > MOST_JSON
        ):
            raise ValueError("more text than a detector has")
        if "models/model.json" not in names:
            raise ValueError("no models/model.json in it; archives of torch 2.8 or newer have one")

        def text(name: str) -> object:
            return json.loads(archive.read(names[name])) if name in names else {}

        tensors = {}
        for folder, config in (("weights", "model_weights_config"), ("constants", "model_constants_config")):
            for name, row in text(f"data/{folder}/{config}.json").get("config", {}).items():
                if row["use_pickle"]:
                    raise ValueError(f"{name} is pickled")
                tensors[name] = _tensor(archive.read(names[f"data/{folder}/{row['path_name']}"]), row["tensor_meta"])
        return text(EXTRA), text("models/model.json"), tensors


def _tensor(data: bytes, meta: Mapping) -> Tensor:
    sizes, strides = ([entry["as_int"] for entry in meta[key]] for key in ("sizes", "strides"))
    flat = (
        torch.frombuffer(bytearray(data), dtype=DTYPES[meta["dtype"]])
        if data
        else torch.empty(0, dtype=DTYPES[meta["dtype"]])
    )
    return torch.as_strided(
        flat, sizes, strides, meta["storage_offset"]["as_int"]
    ).clone()  # refuses what lies outside the data


class Program:
    """The operations of a torch.export graph with their arguments. program: the JSON of models/model.json. One input, one output."""

    def __init__(self, program: Mapping, weights: Mapping[str, Tensor], device: torch.device):
        module = program["graph_module"]
        graph, self._device = module["graph"], device
        self._start: dict[str, Tensor] = {}
        self._input = ""
        for spec in module["signature"]["input_specs"]:
            ((kind, row),) = spec.items()
            if kind == "user_input":
                self._input = row["arg"]["as_tensor"]["name"]
                continue
            key = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}[
                kind
            ]
            self._start[row["arg"]["name"]] = weights[row[key]].to(device)
        self._output = graph["outputs"][0]["as_tensor"]["name"]
        nodes = [
            node for node in graph["nodes"] if node["target"].rpartition("aten.")[2].partition(".")[0] not in LEFT_OUT
        ]
        self._steps = [(_operation(node["target"]), *self._arguments(node), _outputs(node)) for node in nodes]
        self._ends = _last_uses(self._steps, {*self._start, self._output})

    def __call__(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) on the program's device -> its output."""
        values: dict[str, object] = {**self._start, self._input: images}
        for (operation, arguments, keywords, outputs), ends in zip(self._steps, self._ends):
            found = operation(
                *[_given(value, values) for value in arguments],
                **{key: _given(value, values) for key, value in keywords.items()},
            )
            if isinstance(outputs, str):
                values[outputs] = found
            else:
                values.update(zip(outputs, found, strict=True))
            for name in ends:
                values.pop(name, None)
        return values[self._output]

    def _arguments(self, node: Mapping) -> tuple[list, dict]:
        arguments, keywords = [], {}
        for row in node["inputs"]:
            value = self._value(row["arg"])
            if row.get("kind") == 2:
                keywords[row["name"]] = value
            else:
                arguments.append(value)
        if NAMED.fullmatch(node["target"]) and arguments:  # some leave out what stands before: names are sure
            names = [row["name"] for row in node["inputs"] if row.get("kind") != 2]
            return [], {**dict(zip(names, arguments, strict=True)), **keywords}
        return arguments, keywords

    def _value(self, argument: Mapping) -> object:
        ((kind, value),) = ((kind, value) for kind, value in argument.items())
        if kind in PLAIN:
            return value
        reader: Callable | None = READERS.get(kind)
        if reader is None:
            raise ValueError(f"an argument of kind {kind}")
        return self._device if kind == "as_device" else reader(value)


class Name(str):
    """The name of a value that is computed before."""


def _symbol(row: Mapping) -> object:
    ((kind, value),) = row.items()
    return Name(value) if kind == "as_name" else value


READERS: Mapping[str, Callable] = {
    "as_none": lambda value: None,
    "as_tensor": lambda value: Name(value["name"]),
    "as_tensors": lambda values: [Name(value["name"]) for value in values],
    "as_optional_tensor": lambda value: Name(value["as_tensor"]["name"]) if "as_tensor" in value else None,
    "as_optional_tensors": lambda values: [Name(v["as_tensor"]["name"]) if "as_tensor" in v else None for v in values],
    "as_sym_int": _symbol,
    "as_sym_bool": _symbol,
    "as_sym_float": _symbol,
    "as_sym_ints": lambda values: [_symbol(value) for value in values],
    "as_scalar_type": lambda value: DTYPES[value],
    "as_memory_format": lambda value: MEMORY[value],
    "as_layout": lambda value: torch.strided,
    "as_device": lambda value: None,
}


def _given(value: object, values: Mapping[str, object]) -> object:
    if isinstance(value, Name):
        return values[value]
    return [_given(part, values) for part in value] if isinstance(value, list) else value


def _operation(target: str) -> Callable:
    if target in NUMBERS:
        return NUMBERS[target] if target == "_operator.getitem" else _arithmetic(NUMBERS[target])
    named = NAMED.fullmatch(target)
    if named is None or f"{named[1]}.{named[2]}" not in OPERATIONS:
        raise ValueError(f"the operation {target[:80]!r} is none that detectors need")
    found = getattr(getattr(torch.ops.aten, named[1]), named[2])
    return _limited(found) if f"{named[1]}.{named[2]}" in CREATING else found


def _arithmetic(operation: Callable) -> Callable:
    # With numbers as sizes are: a text or list times a number, or a square of squares, would fill the memory.
    def compute(*values: object) -> int | float:
        if (
            not all(isinstance(value, (int, float)) for value in values)
            or abs(found := operation(*values)) >= MOST_NUMBER
        ):
            raise ValueError("arithmetic with something else than sizes")
        return found

    return compute


def _limited(operation: Callable) -> Callable:
    # The same, with its size asked for before there is memory for it.
    def create(**given: object) -> Tensor:
        if (size := operation(**{**given, "device": torch.device("meta")}).numel()) > MOST_CREATED:
            raise ValueError(f"a tensor of {size} numbers; expected at most {MOST_CREATED}")
        return operation(**given)

    return create


def _outputs(node: Mapping) -> str | list[str]:
    # One name, or a list where the operation gives several.
    rows = node["outputs"]
    ((kind, value),) = rows[0].items() if len(rows) == 1 else ((None, None),)
    if kind == "as_tensors":
        return [row["name"] for row in value]
    if kind in ("as_sym_int", "as_sym_bool", "as_sym_float"):
        return value["as_name"]
    return value["name"] if kind == "as_tensor" else [row["as_tensor"]["name"] for row in rows]


def _last_uses(steps: list[tuple], kept: set[str]) -> list[list[str]]:
    # After which step each value is needed no more: memory as in the network itself.
    ends: list[list[str]] = [[] for _ in steps]
    seen = set(kept)

    def names(value: object) -> set[str]:
        if isinstance(value, Name):
            return {str(value)}
        return set().union(*map(names, value)) if isinstance(value, list) else set()

    for place in range(len(steps) - 1, -1, -1):
        _, arguments, keywords, outputs = steps[place]
        used = names([*arguments, *keywords.values()]) | {*([outputs] if isinstance(outputs, str) else outputs)}
        ends[place] = sorted(used - seen)
        seen |= used
    return ends
