"""torch.export files: those made to do harm are refused before anything of them runs."""

from __future__ import annotations

import re
import zipfile

import pytest
import torch

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.runtimes import pt2
from bitfalcon_plugin.export.runtimes.pt2_program import CREATING, OPERATIONS
from tests.helpers.archives import archive, full, named, node, program, tensor


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


@pytest.mark.parametrize("suffix", ["torchscript", "pt2"])
def test_an_archive_that_unpacks_to_much_more_is_refused(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(pt2, "MAX_JSON", 100_000)
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
    """As torch.export records yolov12, yolov12-turbo, yolo11, yolov8 and bitfalcon: one size, dynamic, and 16 bits."""
    needed = """
        __or__.Tensor add.Tensor alias.default bitwise_not.default cat.default chunk.default clamp.default
        conv2d.default cumsum.default div.Tensor eq.Tensor flatten.using_ints gt.Scalar matmul.default
        max_pool2d.default mul.Tensor mul_.Tensor permute.default round_.default select.int sigmoid.default
        silu.default slice.Tensor softmax.int split_with_sizes.default sub.Tensor sum.dim_IntList sym_size.int
        to.dtype transpose.int unflatten.int upsample_nearest2d.vec view.default view_as.default
        where.ScalarOther where.self
    """
    assert set(needed.split()) <= OPERATIONS
