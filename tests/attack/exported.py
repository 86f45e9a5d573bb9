"""Exported models that crash, hang or fill the memory of the programs that run them, each made by a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.helpers.archives import ABOUT, archive, named, node, program, tensor

EXACT = ABOUT | {"names": "{0: 'a', 1: 'b'}"}


# TorchScript: text that its parser follows by recursion, and programs without an end


def expression(text: str) -> Callable[[Path], Path]:
    """Return a function that writes a TorchScript file with an expression."""
    return lambda path: archive(path, f"    z = {text}\n")


def lines(text: str) -> Callable[[Path], Path]:
    """Return a function that writes a TorchScript file with lines in its forward."""
    return lambda path: archive(path, text)


def attributes(count: int) -> Callable[[Path], Path]:
    """Return a function that writes a TorchScript file whose class has so many attributes."""
    return lambda path: archive(path, more="".join(f"  a{index} : int\n" for index in range(count)))


def attribute_type(text: str) -> Callable[[Path], Path]:
    """Return a function that writes a TorchScript file whose class has an attribute of a type."""
    return lambda path: archive(path, more=f"  a : {text}\n")


def nested_pickle(count: int) -> Callable[[Path], Path]:
    """Return a function that writes a TorchScript file whose pickle has tuples in each other."""
    return lambda path: archive(path, pickled=lambda data: b"\x80\x02)" + b"\x85" * count + b"0" + data[2:])


LOOP = "    k = 0\n    while True:\n      k = torch.add(k, 1)\n"
DOUBLED_TEXT = '    s = "aaaaaaaa"\n    for i in range(60):\n      s = torch.add(s, s)\n'
DOUBLED_TENSOR = "    z = images\n    for i in range(60):\n      z = torch.cat([z, z], 0)\n"


# torch.export


def doubled_tensor(path: Path) -> Path:
    """Write a pt2 file that doubles a tensor again and again."""
    names = ["images", *[f"z{index}" for index in range(40)]]
    parts = [
        node("cat.default", after, named("tensors", "as_tensors", [{"name": name}] * 2), named("dim", "as_int", 0))
        for name, after in zip(names, names[1:])
    ]
    return program(path, *parts)


def outer_product(path: Path) -> Path:
    """Write a pt2 file that multiplies each number of a line of 60,000 with each other."""
    line = node("expand.default", "line", tensor("one"), named("size", "as_ints", [60_000, 1]))
    one = node(
        "full.default",
        "one",
        named("size", "as_ints", [1, 1]),
        named("fill_value", "as_int", 1),
        named("dtype", "as_scalar_type", 7, True),
    )
    across = node("expand.default", "across", tensor("one"), named("size", "as_ints", [1, 60_000]))
    return program(path, one, line, across, node("mul.Tensor", "z", tensor("line"), tensor("across", "other")))


# ONNX


def onnx_chain(count: int) -> Callable[[Path], Path]:
    """Return a function that writes an ONNX file of so many operations, one behind the other."""

    def write(path: Path) -> Path:
        import onnx

        make = onnx.helper
        names = ["images", *[f"z{index}" for index in range(count)]]
        nodes = [make.make_node("Sigmoid", [name], [after]) for name, after in zip(names, names[1:])]
        nodes.append(make.make_node("Identity", names[-1:], ["output0"]))
        return _save(path, nodes)

    return write


def onnx_doubled(path: Path) -> Path:
    """Write an ONNX file that doubles a tensor again and again."""
    import onnx

    names = ["images", *[f"z{index}" for index in range(40)], "output0"]
    pairs = zip(names, names[1:])
    return _save(path, [onnx.helper.make_node("Concat", [name, name], [after], axis=0) for name, after in pairs])


def onnx_loop(path: Path) -> Path:
    """Write an ONNX file with a loop that does not end."""
    import onnx

    make, floats = onnx.helper, onnx.TensorProto
    body = make.make_graph(
        [make.make_node("Identity", ["go"], ["on"]), make.make_node("Sigmoid", ["x"], ["y"])],
        "body",
        [
            make.make_tensor_value_info("i", floats.INT64, []),
            make.make_tensor_value_info("go", floats.BOOL, []),
            make.make_tensor_value_info("x", floats.FLOAT, [1, 3, 16, 16]),
        ],
        [
            make.make_tensor_value_info("on", floats.BOOL, []),
            make.make_tensor_value_info("y", floats.FLOAT, [1, 3, 16, 16]),
        ],
    )
    constant = make.make_tensor("true", floats.BOOL, [], [True])
    return _save(path, [make.make_node("Loop", ["", "true", "images"], ["output0"], body=body)], [constant])


def _save(path: Path, nodes: list, constants: list = ()) -> Path:
    import onnx

    make, floats = onnx.helper, onnx.TensorProto
    graph = make.make_graph(
        nodes,
        "x",
        [make.make_tensor_value_info("images", floats.FLOAT, [1, 3, 16, 16])],
        [make.make_tensor_value_info("output0", floats.FLOAT, None)],
        constants,
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    for key, value in EXACT.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


# OpenVINO


def openvino_xml(text: Callable[[], str]) -> Callable[[Path], Path]:
    """Return a function that writes a folder of OpenVINO with a graph as XML."""

    def write(path: Path) -> Path:
        path.mkdir()
        (path / "x.xml").write_text(text())
        (path / "x.bin").write_bytes(b"")
        (path / "metadata.yaml").write_text(json.dumps(EXACT))
        return path

    return write


def openvino_chain(count: int) -> str:
    """A graph of so many operations, one behind the other."""
    port = "<dim>1</dim><dim>3</dim><dim>16</dim><dim>16</dim></port>"
    into, out = f'<input><port id="0">{port}</input>', f'<output><port id="1" precision="FP32">{port}</output>'
    first = (
        '<layer id="0" name="images" type="Parameter" version="opset1">'
        f'<data shape="1,3,16,16" element_type="f32"/><output><port id="1" precision="FP32">{port}</output></layer>'
    )
    between = (
        f'<layer id="{index}" name="z{index}" type="Sigmoid" version="opset1">{into}{out}</layer>'
        for index in range(1, count + 1)
    )
    last = f'<layer id="{count + 1}" name="out" type="Result" version="opset1">{into}</layer>'
    edges = (
        f'<edge from-layer="{index}" from-port="1" to-layer="{index + 1}" to-port="0"/>' for index in range(count + 1)
    )
    layers = "".join((first, *between, last))
    return f'<net name="x" version="11"><layers>{layers}</layers><edges>{"".join(edges)}</edges></net>'


# name -> (suffix of the file, function that writes it)
FILES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "brackets": (".torchscript", expression("(" * 100_000 + "1" + ")" * 100_000)),
    "lists": (".torchscript", expression("[" * 100_000 + "1" + "]" * 100_000)),
    "minus": (".torchscript", expression("-" * 100_000 + "1")),
    "not": (".torchscript", expression("not " * 50_000 + "True")),
    "operators": (".torchscript", expression("1" + "+1" * 20_000)),
    "attributes": (".torchscript", attributes(100_000)),
    "nested type": (".torchscript", attribute_type("List[" * 50_000 + "int" + "]" * 50_000)),
    "nested optional": (".torchscript", attribute_type("Optional[" * 50_000 + "int" + "]" * 50_000)),
    "nested pickle": (".torchscript", nested_pickle(1_000_000)),
    "endless": (".torchscript", lines(LOOP)),
    "doubled text": (".torchscript", lines(DOUBLED_TEXT)),
    "doubled tensor": (".torchscript", lines(DOUBLED_TENSOR)),
    "doubled tensor of pt2": (".pt2", doubled_tensor),
    "outer product of pt2": (".pt2", outer_product),
    "100,000 nodes": (".onnx", onnx_chain(100_000)),
    "doubled tensor of ONNX": (".onnx", onnx_doubled),
    "endless loop of ONNX": (".onnx", onnx_loop),
    "100,000 layers": ("_openvino_model", openvino_xml(lambda: openvino_chain(100_000))),
    "20,000 layers": ("_openvino_model", openvino_xml(lambda: openvino_chain(20_000))),
    "nested XML": ("_openvino_model", openvino_xml(lambda: "<a>" * 300_000 + "</a>" * 300_000)),
}
