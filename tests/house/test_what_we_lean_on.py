"""The one list of what the package uses of torch and other libraries without their promise to keep it.

Private names (with an underscore), undocumented operators, numbers of a file layout and texts of errors may change with
every release. Each entry of LEANS says what is used, in which rooms, and what happens without it; its check fails here
first when a new version no longer has it. The package may use no underscore name of another library that is not listed.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import io
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pycocotools.cocoeval import COCOeval
from torch import nn
from torch.utils.data import DataLoader

from bitfalcon_plugin.export.runtimes.pt2_program import DTYPES, MEMORY_FORMATS, OPERATIONS
from bitfalcon_plugin.models.inference.fused_conv import operator_works
from bitfalcon_plugin.models.modules.bit_kernels import KINDS, refusal
from bitfalcon_plugin.ops import jpeg, nms
from tests.helpers.fake_tracker import library_allocates_ids
from tests.helpers.packages import flops_are_counted, full_disk_is_the_cause, is_with, pieces_are_listed
from tests.helpers.syntax import SHIPPED, parse

# Underscore names of other libraries that their documentation promises.
PROMISED = {"_exit"}  # os._exit
TORCHS = nn.Conv2d(1, 1, 1)  # assigning to an attribute that a module of torch has does not make the name ours


@dataclass(frozen=True)
class Lean:
    """One thing that the package uses without a promise.

    uses: a regular expression that finds each use in the source. rooms: the rooms or files that use it. without: what
    happens in a version that does not have it. check: whether this version has it.
    """

    uses: str
    rooms: tuple[str, ...]
    without: str
    check: Callable[[], bool]


def parts_of_a_module(*names: str) -> bool:
    return all(isinstance(vars(nn.Conv2d(1, 1, 1)).get(name), dict) for name in names)


def change_is_counted() -> bool:
    tensor = torch.zeros(1)
    before = tensor._version
    return tensor.add_(1)._version == before + 1


def moving_calls_apply() -> bool:
    calls = []

    class Moved(nn.Linear):
        def _apply(self, *args, **keywords):
            calls.append(args)
            return super()._apply(*args, **keywords)

    Moved(1, 1).double()
    return bool(calls)


def loading_asks_each_module() -> bool:
    calls = []

    class Loaded(nn.Linear):
        def _load_from_state_dict(self, state, prefix, metadata, strict, missing, unexpected, errors):
            calls.append(prefix)
            super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)

    model = nn.Sequential(Loaded(1, 1))
    model.load_state_dict(model.state_dict())
    return calls == ["0."]


def convolution_takes_other_weights() -> bool:
    conv, x = nn.Conv2d(2, 3, 3, padding=1), torch.rand(1, 2, 4, 4)
    return torch.equal(
        conv._conv_forward(x, 2 * conv.weight, None), nn.functional.conv2d(x, 2 * conv.weight, padding=1)
    )


def metadata_survives_a_file() -> bool:
    state, file = OrderedDict(weight=torch.zeros(1)), io.BytesIO()
    state._metadata = {"": {"license": "MIT"}}
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)._metadata == {"": {"license": "MIT"}}


def suppression_kernel_is_found() -> bool:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
    kept = nms._kernel()(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    folder = Path(importlib.util.find_spec("torchvision").origin).parent
    return kept.tolist() == [0, 2] and any(folder.glob("_C*"))


def operations_exist() -> bool:
    words = (name.split(".") for name in OPERATIONS)
    return all(hasattr(getattr(torch.ops.aten, name), overload) for name, overload in words)


def schema_numbers_hold() -> bool:
    from torch._export.serde import schema

    types = {kind.value: kind.name for kind in schema.ScalarType}
    formats = {kind.value: kind.name for kind in schema.MemoryFormat}
    words = "BYTE CHAR SHORT INT LONG HALF FLOAT DOUBLE BOOL BFLOAT16".split()
    layouts = "ContiguousFormat ChannelsLast ChannelsLast3d PreserveFormat".split()
    return [types[number] for number in DTYPES] == words and [formats[number] for number in MEMORY_FORMATS] == layouts


def dead_reader_is_named() -> bool:
    from torch.utils.data import dataloader

    workers = iter(DataLoader([0, 1], num_workers=1))._workers
    return len(workers) == 1 and "DataLoader worker (pid" in inspect.getsource(dataloader)


def compiling_sets_the_call() -> bool:
    model = nn.Identity()
    before = model._compiled_call_impl
    model.compile()
    return before is None and model._compiled_call_impl is not None


def lost_connection_speaks_of_gloo() -> bool:
    library = next((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"), None)
    if library is None or not torch.distributed.is_gloo_available():
        return True
    with open(library, "rb") as handle:
        return any(b"gloo/transport" in part for part in iter(lambda: handle.read(2**24), b""))


LEANS: dict[str, Lean] = {
    "torch.ops.mkldnn: convolution and activation in one operator, weights laid out beforehand": Lean(
        r"torch\.ops\.mkldnn|_convolution_pointwise|_reorder_convolution_weight",
        ("models.inference",),
        "operator_works() is False: a prepared model computes with the plain layers, slower",
        lambda: operator_works() or not torch.backends.mkldnn.is_available(),
    ),
    "torch.ops.onednn: integer convolutions (qconv_prepack, qconv_pointwise or qconv2d_pointwise)": Lean(
        r"torch\.ops\.onednn|qconv",
        ("models.modules",),
        "refusal() says why, and ternary layers compute in floats: the same numbers, slower",
        lambda: (
            not torch.backends.mkldnn.is_available()
            or hasattr(torch.ops.onednn, "qconv_prepack")
            or all(refusal(kind) for kind in KINDS)
        ),
    ),
    "torchvision/_C*: the library that holds torch.ops.torchvision.nms, loaded without torchvision": Lean(
        r"torch\.ops\.torchvision|torch\.ops\.load_library",
        ("ops",),
        "torchvision is imported as a whole, which costs 1.7 s",
        suppression_kernel_is_found,
    ),
    "torchvision/image*: the library that holds torch.ops.image.decode_jpeg, loaded without torchvision": Lean(
        r"torch\.ops\.image",
        ("ops",),
        "Pillow decodes JPEG files: the same bytes, slower",
        lambda: jpeg._decoder() is not None,
    ),
    "torch.ops.aten: the operations of an archive of torch.export, by their full names": Lean(
        r"torch\.ops\.aten|_assert_(scalar|async|tensor_metadata)",
        ("export",),
        "an archive that uses an operation that is gone is refused by name",
        operations_exist,
    ),
    "numbers of torch/_export/serde/schema.py: types and memory formats in an archive of torch.export": Lean(
        r"torch/_export",
        ("export",),
        "an archive gives wrong types; the comparison after an export fails",
        schema_numbers_hold,
    ),
    "Tensor._version: counts changes of a tensor in place": Lean(
        r"\._version\b", ("models.modules",), "AttributeError at the first prediction", change_is_counted
    ),
    "Module._parameters, _buffers, _modules: the dicts of a module's parts": Lean(
        r"(?<!self)(?<!layer)\._(parameters|buffers|modules)\b|\"_(parameters|buffers|modules)\"",
        ("models", "compat.standins", "tasks.script_model", "dropin.engine.networks"),
        "preparing a model fails; files of others are read all the same, because they keep these names",
        lambda: parts_of_a_module("_parameters", "_buffers", "_modules"),
    ),
    "Module._non_persistent_buffers_set: buffers that a state dict leaves out (in files of others)": Lean(
        "_non_persistent_buffers_set",
        ("compat.standins",),
        "a buffer that no state dict has is taken for a tensor of the model, and the file is refused by its name",
        lambda: nn.Identity()._non_persistent_buffers_set == set(),
    ),
    "Module._forward_hooks, _forward_pre_hooks: whether somebody watches a layer": Lean(
        r"_forward_(pre_)?hooks",
        ("models.inference", "tasks.script_model"),
        "preparing a model fails",
        lambda: parts_of_a_module("_forward_hooks", "_forward_pre_hooks"),
    ),
    "Module._apply: called when a module is moved or cast": Lean(
        r"\b_apply\b",
        ("models",),
        "what a layer laid out for one device or type is used on another: an error of the operator",
        moving_calls_apply,
    ),
    "Module._load_from_state_dict: called when a state is loaded": Lean(
        "_load_from_state_dict",
        ("models.modules",),
        "states without scales of activations are refused for the missing ones",
        loading_asks_each_module,
    ),
    "Conv2d._conv_forward: a convolution with other weights": Lean(
        "_conv_forward", ("models.modules",), "AttributeError in ternary layers", convolution_takes_other_weights
    ),
    "Module._compiled_call_impl: set by Module.compile()": Lean(
        "_compiled_call_impl",
        ("models.inference",),
        "no warm-up: the first batch of a shape takes the time of compiling",
        compiling_sets_the_call,
    ),
    "torch.nn.modules.batchnorm._BatchNorm: the base class of all batch norms": Lean(
        r"_BatchNorm\b",
        ("models", "bit", "train"),
        "AttributeError in training",
        lambda: issubclass(nn.SyncBatchNorm, nn.modules.batchnorm._BatchNorm),
    ),
    "OrderedDict._metadata: what torch keeps beside a state dict, also in a file": Lean(
        r"\b_metadata\b",
        ("models.weights", "compat"),
        "the licence is lost on the way to another maker's keys",
        metadata_survives_a_file,
    ),
    "torch._utils._rebuild_tensor_v2, _rebuild_parameter: what torch.save writes for a tensor": Lean(
        r"torch\._utils\._rebuild",
        ("compat.allowed",),
        "files of a new torch are refused by the new name; those of today open as before",
        lambda: hasattr(torch._utils, "_rebuild_tensor_v2") and hasattr(torch._utils, "_rebuild_parameter"),
    ),
    "torch._C.PyTorchFileReader and _jit_get_schemas_for_operator: a TorchScript file, read before it is opened": Lean(
        r"torch\._C\b|_jit_get_schemas",
        ("export",),
        "TorchScript files are refused",
        lambda: hasattr(torch._C, "PyTorchFileReader") and bool(torch._C._jit_get_schemas_for_operator("aten::relu")),
    ),
    "torch._foreach_copy_: many small tensors copied at once": Lean(
        r"_foreach_copy_", ("train",), "AttributeError in training", lambda: hasattr(torch, "_foreach_copy_")
    ),
    "torch.cpu._is_...: instructions of a CPU, where there is no /proc/cpuinfo": Lean(
        r"\"_is_\w+_supported\"",
        ("benchmark",),
        "the report of a machine lists fewer instructions",
        lambda: hasattr(torch.cpu, "_is_avx2_supported"),
    ),
    "torch.utils.flop_counter.FlopCounterMode: counts operations (no page of the documentation has it)": Lean(
        r"torch\.utils\.flop_counter", ("models", "dropin.utils.networks"), "ImportError in `info`", flops_are_counted
    ),
    "distributed_c10d._abort_process_group: leaves a group whose other processes are gone": Lean(
        "_abort_process_group",
        ("train",),
        "the group is closed in order, which waits for processes that are gone until its time is up",
        lambda: hasattr(torch.distributed.distributed_c10d, "_abort_process_group"),
    ),
    "torch.distributed.launcher.api and elastic: processes started from Python, as torchrun does it": Lean(
        r"torch\.distributed\.(launcher|elastic)",
        ("train",),
        "ImportError with several devices",
        lambda: importlib.util.find_spec("torch.distributed.launcher.api") is not None,
    ),
    "text of gloo's errors: that another process is gone": Lean(
        r"\"gloo\" in str",
        ("train",),
        "the error of gloo is shown as it is, without what to do",
        lost_connection_speaks_of_gloo,
    ),
    "context of torch.save's RuntimeError: the OSError of the file that could not be written": Lean(
        r"error\.__context__",
        ("models.weights",),
        "a full disk ends in a traceback instead of one line",
        full_disk_is_the_cause,
    ),
    "text of DataLoader's RuntimeError and its iterator's _workers: which reading process died": Lean(
        r"\"_workers\"|DataLoader worker", ("data",), "its own error, without what to do", dead_reader_is_named
    ),
    "multiprocessing's _inheriting: whether this process is still importing the user's script": Lean(
        "_inheriting",
        ("train",),
        "a script without a guard is stopped by multiprocessing's own error",
        lambda: "_inheriting" in Path(importlib.util.find_spec("multiprocessing.spawn").origin).read_text(),
    ),
    "MNN's extension _tools: its mnnconvert, which the command of that name calls, too": Lean(
        r"\b_tools\b",
        ("export.writers_mobile",),
        "format=mnn: MNN cannot be imported",
        lambda: is_with("MNN", "_tools"),
    ),
    "trackers' _allocate_tracker_id: the next id of a tracker, for objects of the first frame": Lean(
        "_allocate_tracker_id", ("track",), "objects get their ids in the second frame", library_allocates_ids
    ),
    "Pillow: Image.OPEN, its formats, and image.tile, the pieces of a file": Lean(
        r"Image\.OPEN|image\.tile", ("data",), "large pictures are not read by windows", pieces_are_listed
    ),
    "COCOeval: evalImgs, matches by class, area and image; _gts and _dts, of which computeIoU gives the overlaps": Lean(
        r"\.evalImgs|computeIoU|\._[gd]ts", ("tasks",), "val fails", lambda: hasattr(COCOeval(iouType="bbox"), "_gts")
    ),
}


def names_defined(tree: ast.AST) -> set[str]:
    """Underscore names that a file gives to functions, classes, variables and attributes of self."""
    found = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if ast.unparse(node.value) == "self" or not hasattr(TORCHS, node.attr):
                found.add(node.attr)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            found.update(ast.literal_eval(node.value))
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def private_uses(tree: ast.AST) -> set[str]:
    """Underscore names that a file reads from any object or imports from libraries; dunder names are no secret."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.update(name for item in node.names for name in (item.name, *node.module.split(".")))
        elif isinstance(node, ast.Import):
            found.update(name for item in node.names for name in item.name.split("."))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr") and len(node.args) > 1:
            name = node.args[1]
            found.update([name.value] if isinstance(name, ast.Constant) else [])
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize("what", LEANS)
def test_this_version_has_it(what: str) -> None:
    assert LEANS[what].check(), f"{what}: gone. Without it: {LEANS[what].without}"


@pytest.mark.parametrize("what", LEANS)
def test_only_the_rooms_that_are_listed_use_it(what: str) -> None:
    lean = LEANS[what]
    users = [name for name, path in SHIPPED.items() if re.search(lean.uses, path.read_text(encoding="utf-8"))]
    rooms = {name: next((room for room in lean.rooms if f"{name}.".startswith(f"{room}.")), None) for name in users}
    assert [name for name, room in rooms.items() if room is None] == [], f"{what}: name these rooms in LEANS"
    assert set(lean.rooms) == set(rooms.values()), f"{what}: rooms in LEANS that do not use it any more"


def test_no_private_name_is_used_that_is_not_listed() -> None:
    trees = {name: parse(path) for name, path in SHIPPED.items()}
    own = set().union(*map(names_defined, trees.values())) | PROMISED
    listed = re.compile("|".join(f"(?:{lean.uses})" for lean in LEANS.values()))
    unlisted = {
        f"{name}: {word}"
        for name, tree in trees.items()
        for word in private_uses(tree) - own
        if not any(listed.search(form) for form in (word, f".{word}", f'"{word}"', f"torch.{word}"))
    }
    assert not unlisted, "an underscore name of another library: do without it, or add it to LEANS"


@pytest.mark.parametrize(
    "text", ["torch._hidden()", "from torch import _hidden", "import torch._hidden", "getattr(torch, '_hidden', None)"]
)
def test_the_rule_sees_private_names(text: str) -> None:
    assert private_uses(ast.parse(text)) == {"_hidden"} and not names_defined(ast.parse(text))


def test_names_of_our_own_are_no_secret() -> None:
    text = "def _f(): pass\nclass _C:\n  __slots__ = ('_d',)\n  _e: int\n  def g(self):\n    self._a = 1\n_b = 2"
    assert names_defined(ast.parse(text)) == {"_f", "_C", "_d", "_e", "_a", "_b"}
    assert private_uses(ast.parse("self.__dict__")) == set()
