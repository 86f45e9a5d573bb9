"""The program of a torch.export archive: its operations with their arguments, and which operations it may have.

Other operations of the aten library reach files, or trust sizes that they are given and read past their data.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

ATEN = re.compile(r"torch\.ops\.aten\.(_{0,2}[a-z]\w*)\.(\w+)", re.ASCII)
MAX_NUMBER = 2**63  # as torch has them
MAX_CREATED = 100_000_000  # elements of a tensor that an operation creates
ARITHMETIC = {
    f"_operator.{name}": getattr(operator, name)
    for name in "add sub mul floordiv mod neg getitem ge le eq gt lt ne truediv".split()
}


def _with_overload(names: str) -> frozenset[str]:
    """Names of operations; one without an overload gets the overload `default`."""
    return frozenset(name if "." in name else f"{name}.default" for name in names.split())


CREATING = _with_overload(
    """
    arange arange.start arange.start_step full full_like new_full new_ones new_zeros ones ones_like zeros zeros_like
    """
)
# The operations that detectors are made of. Each computes from the values of tensors, checks the sizes that it gets,
# and knows no file, address or raw memory.
OPERATIONS = CREATING | _with_overload(
    """
    __and__.Tensor __or__.Tensor abs add.Scalar add.Tensor add_.Scalar add_.Tensor atan atan2 bitwise_and.Tensor
    bitwise_not bitwise_or.Tensor ceil clamp clamp.Tensor clamp_ clamp_max clamp_min copy_ cos div.Scalar div.Tensor
    div_.Scalar div_.Tensor elu elu_ eq.Scalar eq.Tensor erf exp exp_ fill_.Scalar floor ge.Scalar ge.Tensor gelu
    gt.Scalar gt.Tensor hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ le.Scalar le.Tensor
    leaky_relu leaky_relu_ log log1p log_softmax.int logical_and logical_not logical_or lt.Scalar lt.Tensor
    masked_fill.Scalar masked_fill.Tensor maximum minimum mish mish_ mul.Scalar mul.Tensor mul_.Scalar mul_.Tensor
    ne.Scalar ne.Tensor neg pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor prelu reciprocal relu relu6 relu6_ relu_
    round round_ rsqrt rsub.Scalar sigmoid sigmoid_ sign silu silu_ sin softmax.int softplus sqrt square sub.Scalar
    sub.Tensor sub_.Scalar sub_.Tensor tanh tanh_ where.ScalarOther where.ScalarSelf where.self

    alias broadcast_to cat chunk clone constant_pad_nd contiguous detach detach_ expand expand_as flatten.using_ints
    flip lift_fresh_copy meshgrid meshgrid.indexing movedim.int narrow pad permute pixel_shuffle pixel_unshuffle
    reflection_pad2d repeat replication_pad2d reshape roll scalar_tensor select.int slice.Tensor split.Tensor
    split_with_sizes squeeze squeeze.dim squeeze.dims stack sym_numel sym_size.int t tile transpose.int type_as
    to.dtype to.dtype_layout _to_copy unbind.int unflatten.int unsqueeze view view_as

    amax amin argmax argmin argsort cumsum gather index.Tensor index_select max max.dim mean mean.dim min min.dim
    prod.dim_int sort std.correction sum sum.dim_IntList topk var.correction

    _softmax adaptive_avg_pool2d adaptive_max_pool2d addmm avg_pool2d baddbmm batch_norm bmm conv1d conv2d
    conv2d.padding conv_transpose2d.input convolution dropout dropout_ einsum grid_sampler group_norm instance_norm
    layer_norm linear matmul max_pool2d max_pool2d_with_indices mm scaled_dot_product_attention upsample_bilinear2d
    upsample_bilinear2d.vec upsample_nearest2d upsample_nearest2d.vec
    """
)
# Operations that check something and compute nothing; they are left out.
CHECKS = frozenset(
    "_assert_scalar _assert_tensor_metadata _assert_async sym_constrain_range sym_constrain_range_for_size".split()
)
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
MEMORY_FORMATS = dict(
    enumerate((torch.contiguous_format, torch.channels_last, torch.channels_last_3d, torch.preserve_format), 1)
)
PLAIN = ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string", "as_strings")
KEYWORD = 2  # kind of an argument that is given by name
SOURCES = {  # kind of an input of the graph -> key of its name among the weights
    "parameter": "parameter_name",
    "buffer": "buffer_name",
    "tensor_constant": "tensor_constant_name",
}


class Step(NamedTuple):
    """One operation of a program. outputs: the name of its result, or a name for each of its results."""

    operation: Callable
    arguments: list
    keywords: dict
    outputs: str | list[str]


class Program:
    """The operations of a torch.export graph with their arguments; it has one input, and outputs in an order.

    program: the JSON of models/model.json. weights: its parameters and constants by name. Raises ValueError, or another
    error of Python, for what is no such program.
    """

    def __init__(self, program: Mapping, weights: Mapping[str, Tensor], device: torch.device):
        module = program["graph_module"]
        graph, self._device = module["graph"], device
        self._constants: dict[str, Tensor] = {}
        self._input = ""
        for spec in module["signature"]["input_specs"]:
            ((kind, source),) = spec.items()
            if kind == "user_input":
                self._input = source["arg"]["as_tensor"]["name"]
            else:
                self._constants[source["arg"]["name"]] = weights[source[SOURCES[kind]]].to(device)
        self._outputs = [entry["as_tensor"]["name"] for entry in graph["outputs"]]
        self._steps = [
            Step(_operation(node["target"]), *self._arguments(node), _outputs(node))
            for node in graph["nodes"]
            if node["target"].rpartition("aten.")[2].partition(".")[0] not in CHECKS
        ]
        self._last_uses = _last_uses(self._steps, {*self._constants, *self._outputs})

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Run images (B, 3, H, W) on the device of the program; returns its outputs."""
        values: dict[str, object] = {**self._constants, self._input: images}
        for step, last_used in zip(self._steps, self._last_uses):
            result = step.operation(
                *[_resolved(value, values) for value in step.arguments],
                **{key: _resolved(value, values) for key, value in step.keywords.items()},
            )
            if isinstance(step.outputs, str):
                values[step.outputs] = result
            else:
                values.update(zip(step.outputs, result, strict=True))
            for name in last_used:
                values.pop(name, None)
        return [values[name] for name in self._outputs]

    def _arguments(self, node: Mapping) -> tuple[list, dict]:
        """Positional and keyword arguments. Those of aten are all given by name: a file may leave out earlier ones."""
        by_name = ATEN.fullmatch(node["target"])
        arguments, keywords = [], {}
        for entry in node["inputs"]:
            value = self._value(entry["arg"])
            if by_name or entry.get("kind") == KEYWORD:
                keywords[entry["name"]] = value
            else:
                arguments.append(value)
        return arguments, keywords

    def _value(self, argument: Mapping) -> object:
        ((kind, value),) = argument.items()
        if kind in PLAIN:
            return value
        if kind == "as_device":
            return self._device
        if kind not in READERS:
            raise ValueError(f"an argument of kind {kind}")
        return READERS[kind](value)


class Name(str):
    """The name of a value that an earlier step computes."""


def _symbol(entry: Mapping) -> object:
    """A number of the program, or the Name of one."""
    ((kind, value),) = entry.items()
    return Name(value) if kind == "as_name" else value


def _optional(entry: Mapping) -> Name | None:
    return Name(entry["as_tensor"]["name"]) if "as_tensor" in entry else None


READERS: Mapping[str, Callable] = {  # kind of an argument -> its value as the file has it -> its value
    "as_none": lambda value: None,
    "as_tensor": lambda value: Name(value["name"]),
    "as_tensors": lambda values: [Name(value["name"]) for value in values],
    "as_optional_tensor": _optional,
    "as_optional_tensors": lambda values: [_optional(value) for value in values],
    "as_sym_int": _symbol,
    "as_sym_bool": _symbol,
    "as_sym_float": _symbol,
    "as_sym_ints": lambda values: [_symbol(value) for value in values],
    "as_scalar_type": lambda value: DTYPES[value],
    "as_memory_format": lambda value: MEMORY_FORMATS[value],
    "as_layout": lambda value: torch.strided,
}


def _resolved(value: object, values: Mapping[str, object]) -> object:
    """The value with each Name in it replaced by what it names."""
    if isinstance(value, Name):
        return values[value]
    return [_resolved(part, values) for part in value] if isinstance(value, list) else value


def _operation(target: str) -> Callable:
    """The function that a target names. Raises ValueError for one that is not in the tables."""
    if target == "_operator.getitem":
        return operator.getitem
    if target in ARITHMETIC:
        return _limited_arithmetic(ARITHMETIC[target])
    match = ATEN.fullmatch(target)
    if match is None or f"{match[1]}.{match[2]}" not in OPERATIONS:
        raise ValueError(f"the operation {target[:80]!r} is none that detectors need")
    operation = getattr(getattr(torch.ops.aten, match[1]), match[2])
    return _limited_creation(operation) if f"{match[1]}.{match[2]}" in CREATING else operation


def _limited_arithmetic(operation: Callable) -> Callable:
    """Arithmetic for sizes only: a text or list times a number, or a square of squares, would fill the memory."""

    def compute(*values: object) -> int | float:
        if all(isinstance(value, (int, float)) for value in values):
            result = operation(*values)
            if abs(result) < MAX_NUMBER:
                return result
        raise ValueError("arithmetic with something else than sizes")

    return compute


def _limited_creation(operation: Callable) -> Callable:
    """The operation, refused where its result would have too many elements; the device "meta" tells how many."""

    def create(**arguments: object) -> Tensor:
        size = operation(**{**arguments, "device": torch.device("meta")}).numel()
        if size > MAX_CREATED:
            raise ValueError(f"a tensor of {size} numbers; expected at most {MAX_CREATED}")
        return operation(**arguments)

    return create


def _outputs(node: Mapping) -> str | list[str]:
    """The name of the result of a node, or a list of names where there are several results."""
    outputs = node["outputs"]
    if len(outputs) != 1:
        return [entry["as_tensor"]["name"] for entry in outputs]
    ((kind, value),) = outputs[0].items()
    if kind == "as_tensors":
        return [entry["name"] for entry in value]
    if kind in ("as_sym_int", "as_sym_bool", "as_sym_float"):
        return value["as_name"]
    return value["name"] if kind == "as_tensor" else [outputs[0]["as_tensor"]["name"]]


def _last_uses(steps: list[Step], permanent: set[str]) -> list[list[str]]:
    """For each step the names of the values that no later step needs, so that they take memory no longer."""
    last_uses: list[list[str]] = [[] for _ in steps]
    seen = set(permanent)

    def names(value: object) -> set[str]:
        if isinstance(value, Name):
            return {str(value)}
        return set().union(*map(names, value)) if isinstance(value, list) else set()

    for index in reversed(range(len(steps))):
        step = steps[index]
        outputs = {step.outputs} if isinstance(step.outputs, str) else set(step.outputs)
        used = names([*step.arguments, *step.keywords.values()]) | outputs
        last_uses[index] = sorted(used - seen)
        seen |= used
    return last_uses
