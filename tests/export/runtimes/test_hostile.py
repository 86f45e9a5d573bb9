"""TorchScript and pt2 files that were made to do harm: each is refused, before anything of it runs. And files that only look unusual."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.export.metadata import Metadata
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.runtimes import pt2 as with_pt2
from bitfalcon_plugin.export.runtimes.pt2_program import CREATING, OPERATIONS
from bitfalcon_plugin.export.runtimes.torchscript import ALLOWED

ABOUT = Metadata({0: "a"}, 8, (16, 16)).texts()


class Foreign(nn.Module):
    """A small detector of somebody else: (B, 3, H, W) -> (B, 5, H/8 * W/8)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.norm, self.pool, self.gate = nn.GroupNorm(2, 8), nn.AvgPool2d(2), nn.Hardswish()
        self.head = nn.Conv2d(8, 5, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(self.norm(self.pool(self.stem(x))))
        x = torch.where(x > 0, x, x.exp() - 1)
        return self.head(nn.functional.interpolate(x, scale_factor=1.0, mode="nearest")).sigmoid().flatten(2)


def recorded(path: Path, script: bool = False) -> Path:
    torch.manual_seed(0)
    network = Foreign().eval()
    made = torch.jit.script(network) if script else torch.jit.trace(network, torch.rand(1, 3, 16, 16))
    torch.jit.save(made, str(path), _extra_files={"config.txt": json.dumps(ABOUT)})
    return path


@pytest.mark.parametrize("script", [False, True])
def test_a_network_of_somebody_else_runs(tmp_path, script):
    torch.manual_seed(0)
    network, images = Foreign().eval(), torch.rand(2, 3, 16, 16)
    engine = open_exported(recorded(tmp_path / "x.torchscript", script), "cpu")
    with torch.no_grad():
        wanted = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(engine(images), wanted)


# TorchScript

MAIN = "x/code/__torch__.py"
CLASS = """class Hostile(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  _is_full_backward_hook : Optional[bool]
{more}  def forward(self: __torch__.Hostile,
    images: Tensor) -> Tensor:
{lines}    return torch.cat([torch.flatten(images, 2), torch.flatten(images, 2)], 1)
"""


class Hostile(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images


@lru_cache(1)  # torch gives a class another name the second time
def _plain() -> bytes:
    Hostile.__module__ = "__main__"
    buffer = io.BytesIO()
    torch.jit.save(
        torch.jit.trace(Hostile(), torch.rand(1, 3, 16, 16)), buffer, _extra_files={"config.txt": json.dumps(ABOUT)}
    )
    return buffer.getvalue()


def archive(
    path: Path,
    lines: str = "",
    more: str = "",
    rename: Callable[[str], str] = str,
    second: str | None = None,
    pickled: Callable[[bytes], bytes] = bytes,
    first: bool = True,
) -> Path:
    """An archive of TorchScript with `lines` in its forward. second: lines of another file of the same name, before or after it."""
    text = CLASS.format(more=more, lines=lines)
    with zipfile.ZipFile(io.BytesIO(_plain())) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            inside = name.partition("/")[2]
            if inside == "code/__torch__.py":
                texts = [text] if second is None else [text, CLASS.format(more="", lines=second)]
                for one in texts if first else texts[::-1]:
                    new.writestr(rename(MAIN), one)
            elif not inside.startswith("code/"):
                new.writestr(f"x/{inside}", pickled(old.read(name)) if inside == "data.pkl" else old.read(name))
    return path


CALLS = {
    "plain": '    z = torch.from_file("{harm}", True, 16, dtype=6)\n',
    "save": '    torch.save(images, "{harm}")\n',
    "continuation": '    torch.save\\\n(images, "{harm}")\n',
    "continuation after the dot": '    torch.\\\nsave(images, "{harm}")\n',
    "comment": '    z = (torch.from_file # x\n("{harm}", True, 16, dtype=6))\n',
    "comment after the dot": '    z = (torch. # x\nfrom_file("{harm}", True, 16, dtype=6))\n',
    "alias": '    gg = torch.from_file\n    z = gg("{harm}", True, 16, dtype=6)\n',
    "brackets": '    z = (torch.from_file)("{harm}", True, 16, dtype=6)\n',
    "getattr": '    z = getattr(torch, "from_\\146ile")("{harm}", True, 16, dtype=6)\n',
    "getattr apart": '    z = getattr (torch, "from_\\146ile")("{harm}", True, 16, dtype=6)\n',
    "getattr alias": '    g = getattr\n    z = g(torch, "from_\\146ile")("{harm}", True, 16, dtype=6)\n',
    "getattr comment": '    z = getattr(torch # , "x")\n, "from_\\146ile")("{harm}", True, 16, dtype=6)\n',
    "getattr single": "    z = getattr(torch, 'from_\\146ile')(\"{harm}\", True, 16, dtype=6)\n",
    "getattr whole": '    z = getattr(torch, "from_file")("{harm}", True, 16, dtype=6)\n',
    "ops": '    z = ops.aten.from_file\\\n("{harm}", True, 16, dtype=6)\n',
    "ops alias": '    o = ops\n    z = o.aten.from_file("{harm}", True, 16, dtype=6)\n',
    "of a text": '    z = "{harm}".from_file(True, 16, dtype=6)\n',
    "of a tensor": '    images.save("{harm}")\n',
}
BEYOND = {  # what reaches past tensors in other ways
    "another library": '    z = ops.image.read_file("/etc/hostname")\n',
    "the library apart": '    z = ops .image.read_file("/etc/hostname")\n',
    "quantized": "    z = ops.quantized.cat([images], 1., 0)\n",
    "objects of C++": "    z = __torch__.torch.classes.profiler._RecordFunction()\n",
    "objects of C++, apart": "    t = __torch__.torch\n    z = t.classes.profiler._RecordFunction()\n",
    "sparse": "    z = torch._sparse_coo_tensor_unsafe(torch.to(images, 4), images, [4, 4])\n",
    "strides": "    z = torch.as_strided(images, [1000000], [1], 0)\n",
    "resized": "    z = torch.resize_(images, [1000000])\n",
    "storage": "    z = torch.set_(images, images)\n",
    "not what it is": "    z = unchecked_cast(__torch__.Hostile, images)\n",
}


@pytest.mark.parametrize("call", CALLS)
def test_torchscript_that_reaches_files_is_refused_however_it_is_written(tmp_path, call):
    harm = tmp_path / "harm"
    path = archive(tmp_path / "x.torchscript", CALLS[call].format(harm=harm))
    with pytest.raises(UserError, match="(from_file|save|getattr|ops).*is not opened"):
        open_exported(path, "cpu")
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "call",
    ["plain", "save", "continuation", "comment", "alias", "brackets", "getattr", "getattr alias", "ops", "ops alias"],
)
def test_the_files_above_would_do_harm(tmp_path, call):
    """Otherwise their refusal would prove nothing. They write into a folder of this test."""
    harm, use = tmp_path / "harm", "    images = torch.add(images, torch.mul(torch.sum(z), 0.))\n"
    lines = CALLS[call].format(harm=harm)
    torch.jit.load(str(archive(tmp_path / "x.torchscript", lines + use * ("z = " in lines))))(torch.rand(1, 3, 16, 16))
    assert harm.exists()


def test_the_same_archive_without_such_lines_is_opened(tmp_path):
    engine = open_exported(
        archive(tmp_path / "x.torchscript", '    _0 = "do not load, save or open()"\n    w = torch.relu(images)\n'),
        "cpu",
    )
    assert engine.names == {0: "a"} and engine.imgsz == (16, 16)


@pytest.mark.parametrize("code", BEYOND)
def test_torchscript_that_reaches_past_its_tensors_is_refused(tmp_path, code):
    with pytest.raises(UserError, match="is not opened"):
        open_exported(archive(tmp_path / "x.torchscript", BEYOND[code]), "cpu")


@pytest.mark.parametrize(
    "rename",
    [lambda name: name.replace("/code/", "/CODE/"), lambda name: name[:-3] + ".PY", str.upper],
    ids=["folder", "suffix", "both"],
)
def test_code_is_found_whatever_its_case(tmp_path, rename):
    harm = tmp_path / "harm"
    path = archive(
        tmp_path / "x.torchscript", CALLS["plain"].format(harm=harm), rename=lambda name: "x" + rename(name)[1:]
    )
    with pytest.raises(UserError, match="from_file.*is not opened"):
        open_exported(path, "cpu")
    assert not harm.exists()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("rename", [str, str.lower], ids=["same", "lower"])
def test_two_files_of_one_name_are_refused(tmp_path, first, rename):
    path = archive(
        tmp_path / "x.torchscript", CALLS["plain"].format(harm=tmp_path / "harm"), second="", first=first, rename=rename
    )
    with pytest.raises(UserError, match="two files of one name"):
        open_exported(path, "cpu")
    assert not (tmp_path / "harm").exists()


def test_a_second_name_that_only_zipfile_reads_hides_no_code(tmp_path):
    """Extra field 0x7075 gives a file another name, which torch does not read."""
    whole = archive(tmp_path / "x.torchscript", CALLS["plain"].format(harm=tmp_path / "harm"))
    path = tmp_path / "y.torchscript"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            item = zipfile.ZipInfo(name)
            if name == MAIN:
                other = b"x/data/99"
                item.extra = struct.pack("<HHBI", 0x7075, 5 + len(other), 1, zipfile.crc32(name.encode())) + other
            new.writestr(item, old.read(name))
    with pytest.raises(UserError, match="from_file.*is not opened"):
        open_exported(path, "cpu")
    assert not (tmp_path / "harm").exists()


def test_a_second_table_of_contents_that_only_zipfile_reads_hides_no_code(tmp_path):
    """zipfile takes the table before the end of the file, torch the one at the place that the end gives."""
    bad = archive(tmp_path / "bad.torchscript", CALLS["plain"].format(harm=tmp_path / "harm")).read_bytes()
    same = "    # " + "x" * (len(CALLS["plain"].format(harm=tmp_path / "harm")) - 7) + "\n"
    good = archive(tmp_path / "good.torchscript", same).read_bytes()
    assert len(bad) == len(good)
    path = tmp_path / "x.torchscript"
    path.write_bytes(bad[:-22] + good)  # the end of the second gives places as in the first
    with zipfile.ZipFile(path) as seen:
        assert b"from_file" not in seen.read(MAIN)
    assert b"from_file" in torch._C.PyTorchFileReader(str(path)).get_record("code/__torch__.py")
    with pytest.raises(UserError, match="from_file.*is not opened"):
        open_exported(path, "cpu")


def test_code_that_runs_at_opening_and_pickled_objects_of_cpp_are_refused(tmp_path):
    more = "  def __setstate__(self: __torch__.Hostile,\n    state: bool) -> NoneType:\n    return None\n"
    with pytest.raises(UserError, match="__setstate__"):
        open_exported(archive(tmp_path / "x.torchscript", more=more), "cpu")
    for name in (
        b"__torch__.torch.classes.profiler\n_RecordFunction\n",
        b"__torch__.torch\nclasses.profiler._RecordFunction\n",
    ):
        changed = archive(
            tmp_path / "x.torchscript",
            pickled=lambda data, name=name: data.replace(b"c__torch__\nHostile\n", b"c" + name, 1),
        )
        with pytest.raises(UserError, match="torch.classes"):
            open_exported(changed, "cpu")


@pytest.mark.parametrize("suffix", ["torchscript", "pt2"])
def test_an_archive_that_unpacks_to_much_more_is_refused(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(with_pt2, "MAX_JSON", 100_000)
    whole = (archive if suffix == "torchscript" else program)(tmp_path / f"x.{suffix}")
    open_exported(whole, "cpu")
    for name in ("x/data/9", "x/code/more.py", "x/data/weights/9"):
        path = tmp_path / f"y.{suffix}"
        with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for item in old.namelist():
                new.writestr(item, old.read(item))
            new.writestr(name, bytes(1_000_000))
        with pytest.raises(UserError, match="unpacks to more"):
            open_exported(path, "cpu")


def test_what_torchscript_may_call_is_known_and_harmless():
    known = torch._C._jit_get_schemas_for_operator
    beginnings = (
        "_sparse",
        "as_strided",
        "resize",
        "set_",
        "empty",
        "_unsafe",
        "_resize",
        "unsafe",
        "sparse",
        "quantize",
        "rpc",
        "fork",
        "to_here",
        "data_ptr",
        "_nested",
        "new_empty",
        "manual_seed",
        "record_stream",
        "_foreach",
        "_cudnn",
        "mkldnn",
        "fbgemm",
    )
    assert not [name for name in ALLOWED if name.startswith(beginnings)]
    assert not ALLOWED & {
        "save",
        "load",
        "from_file",
        "open",
        "backward",
        "eval",
        "getattr",
        "ops",
        "lift",
        "set",
        "put",
        "put_",
        "from_blob",
    }
    assert not [
        name
        for name in ALLOWED
        if not known(f"aten::{name}") and not known(f"prim::{name}") and not name.startswith("_upsample")
    ], "spelt otherwise"  # of those some came late


# torch.export


def named(name: str, kind: str, value: object, keyword: bool = False) -> dict:
    return {"name": name, "arg": {kind: value}, "kind": 2 if keyword else 1}


def node(target: str, output: str, *inputs: dict) -> dict:
    return {
        "target": f"torch.ops.aten.{target}",
        "inputs": list(inputs),
        "outputs": [{"as_tensor": {"name": output}}],
        "metadata": {},
    }


def tensor(name: str, of: str = "self") -> dict:
    return named(of, "as_tensor", {"name": name})


def full(output: str, sizes: list[int], value: int, dtype: int = 5) -> dict:
    return node(
        "full.default",
        output,
        named("size", "as_ints", sizes),
        named("fill_value", "as_int", value),
        named("dtype", "as_scalar_type", dtype, True),
    )


def program(path: Path, *nodes: dict) -> Path:
    """A pt2 archive of these operations; its output is `out`, which is made of the input where none of them makes it."""
    made = [
        *nodes,
        node("flatten.using_ints", "flat", tensor("images"), named("start_dim", "as_int", 2)),
        node(
            "cat.default",
            "out",
            named("tensors", "as_tensors", [{"name": "flat"}, {"name": "flat"}]),
            named("dim", "as_int", 1),
        ),
    ]
    graph = {"nodes": made, "outputs": [{"as_tensor": {"name": "out"}}]}
    specs = [{"user_input": {"arg": {"as_tensor": {"name": "images"}}}}]
    text = json.dumps({"graph_module": {"graph": graph, "signature": {"input_specs": specs}}})
    about = json.dumps(ABOUT | {"names": "{0: 'a', 1: 'b'}"})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/models/model.json", text)
        archive.writestr("x/extra/config.txt", about)
    return path


def test_operations_of_the_list_run(tmp_path):
    engine = open_exported(
        program(tmp_path / "x.pt2", full("sixes", [2, 2], 6), node("relu.default", "y", tensor("images"))), "cpu"
    )
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(engine(images), torch.cat([images.flatten(2)] * 2, 1))


OUTSIDE = {  # each ended the process, or would read or write what is no tensor's
    "rows of a sparse table": [
        node("arange.default", "rows", named("end", "as_int", 2), named("dtype", "as_scalar_type", 5, True)),
        full("columns", [1], 10**12),
        full("ones", [1], 1, 7),
        node(
            "_sparse_csr_tensor_unsafe.default",
            "sparse",
            tensor("rows", "crow_indices"),
            tensor("columns", "col_indices"),
            tensor("ones", "values"),
            named("size", "as_ints", [1, 4]),
        ),
        full("four", [4, 4], 1, 7),
        node("mm.default", "y", tensor("sparse"), tensor("four", "mat2")),
    ],
    "places of a sparse table": [
        full("places", [2, 1], 10**12),
        full("ones", [1], 1, 7),
        node(
            "_sparse_coo_tensor_unsafe.default",
            "sparse",
            tensor("places", "indices"),
            tensor("ones", "values"),
            named("size", "as_ints", [4, 4]),
        ),
        full("four", [4, 4], 1, 7),
        node("add.Tensor", "y", tensor("four"), tensor("sparse", "other")),
    ],
    "nested": [
        node(
            "_nested_view_from_buffer.default",
            "y",
            tensor("images"),
            tensor("images", "nested_size"),
            tensor("images", "nested_strides"),
            tensor("images", "offsets"),
        )
    ],
    "a file": [
        node(
            "from_file.default",
            "y",
            named("filename", "as_string", "harm"),
            named("shared", "as_bool", True),
            named("size", "as_int", 16),
        )
    ],
    "strides": [
        node(
            "as_strided.default",
            "y",
            tensor("images"),
            named("size", "as_ints", [10**6]),
            named("stride", "as_ints", [1]),
        )
    ],
    "resized": [
        node(
            "_resize_output_.default",
            "y",
            tensor("images"),
            named("size", "as_ints", [10**6]),
            named("device", "as_device", {"type": "cpu"}),
        )
    ],
    "another overload": [node("add.out", "y", tensor("images"), tensor("images", "other"), tensor("images", "out"))],
    "unknown": [node("nosuch.default", "y", tensor("images"))],
}


@pytest.mark.parametrize("operations", OUTSIDE)
def test_a_pt2_file_with_other_operations_is_refused(tmp_path, monkeypatch, operations):
    monkeypatch.chdir(tmp_path)
    path = program(tmp_path / "x.pt2", *OUTSIDE[operations])
    with pytest.raises(
        UserError, match=r"cannot be read.*the operation 'torch\.ops\.aten\.\w+\.\w+' is none that detectors need"
    ):
        open_exported(path, "cpu")
    assert [item.name for item in tmp_path.iterdir()] == ["x.pt2"]


@pytest.mark.parametrize(
    "operations",
    [
        [full("y", [10**12], 0, 7)],
        [node("arange.default", "y", named("end", "as_int", 10**15))],
        [node("zeros.default", "y", named("size", "as_ints", [10**6, 10**6]))],
        [
            {
                "target": "_operator.mul",
                "inputs": [named("", "as_string", "x"), named("", "as_int", 10**15)],
                "outputs": [{"as_sym_int": {"as_name": "y"}}],
            }
        ],
        [
            {
                "target": "_operator.mul",
                "inputs": [named("", "as_int", 2**62), named("", "as_int", 2**62)],
                "outputs": [{"as_sym_int": {"as_name": "y"}}],
            }
        ],
        [
            {
                "target": "_operator.mod",
                "inputs": [named("", "as_int", 1), named("", "as_int", 0)],
                "outputs": [{"as_sym_int": {"as_name": "y"}}],
            }
        ],
        [node("add.Tensor", "y", tensor("absent"), tensor("images", "other"))],
    ],
    ids=["full", "arange", "zeros", "text", "large", "zero", "absent"],
)
def test_a_pt2_file_that_cannot_be_computed_is_told_of(tmp_path, operations):
    engine = open_exported(program(tmp_path / "x.pt2", *operations), "cpu")
    with pytest.raises(UserError, match="x.pt2"):
        engine(torch.rand(1, 3, 16, 16))


DANGEROUS = (
    "from_file",
    "save",
    "load",
    "set_",
    "set",
    "_sparse",
    "sparse",
    "as_strided",
    "resize",
    "_resize",
    "_unsafe",
    "unsafe",
    "empty",
    "new_empty",
    "index_put_",
    "_index_put",
    "data_ptr",
    "_nested",
    "_foreach",
    "_reshape_alias",
    "record_stream",
    "native_",
    "_native",
    "_cudnn",
    "quantize",
    "_efficient",
    "_flash",
    "_scaled",
    "_fused",
    "_convolution",
)


def test_the_operations_of_pt2_exist_and_give_tensors_and_sizes():
    assert CREATING < OPERATIONS
    for name in sorted(OPERATIONS):
        base, overload = name.split(".")
        found = getattr(getattr(torch.ops.aten, base), overload)
        assert isinstance(found, torch._ops.OpOverload), name
        schema = found._schema
        assert {str(item.type) for item in schema.returns} <= {"Tensor", "List[Tensor]", "int", "number"}, name
        taken = " ".join(str(item.type) for item in schema.arguments)
        assert not re.search("Storage|Stream|Generator", taken), name
        texts = {item.name for item in schema.arguments if "str" in str(item.type)}  # of which none is a path
        assert texts <= {"padding", "equation", "approximate", "indexing", "mode"}, name
    assert not [name for name in OPERATIONS if name.startswith(DANGEROUS) or re.search(r"\.out|_out$", name)]


def test_the_operations_of_our_exports_are_in_the_list():
    """As recorded by torch.export for yolov12, yolov12-turbo, yolo11, yolov8 and bitfalcon, of one size, dynamic and in 16 bits."""
    needed = """__or__.Tensor add.Tensor alias.default bitwise_not.default cat.default chunk.default clamp.default conv2d.default
        cumsum.default div.Tensor eq.Tensor flatten.using_ints gt.Scalar matmul.default max_pool2d.default mul.Tensor mul_.Tensor permute.default
        round_.default select.int sigmoid.default silu.default slice.Tensor softmax.int split_with_sizes.default sub.Tensor sum.dim_IntList
        sym_size.int to.dtype transpose.int unflatten.int upsample_nearest2d.vec view.default view_as.default where.ScalarOther where.self"""
    assert set(needed.split()) <= OPERATIONS
