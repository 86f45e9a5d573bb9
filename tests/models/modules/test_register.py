"""Modules of third parties: registered by a call, or by a distribution's entry point."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bitfalcon_plugin
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.build import build, resolve_graph
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.graph.rules import KINDS, Rule
from bitfalcon_plugin.models.modules import MODULES, _load_plugins, entry, known_modules, lookup, register
from bitfalcon_plugin.models.modules.conv import Conv
from bitfalcon_plugin.models.modules.head import Raw
from bitfalcon_plugin.models.modules.library_names import LIBRARIES
from bitfalcon_plugin.models.summary import summary
from tests.helpers.paths import ROOT


@pytest.fixture(autouse=True)
def table(monkeypatch):
    before = dict(MODULES)
    yield
    MODULES.clear()
    MODULES.update(before)


class Wide(nn.Module):
    def __init__(self, c_in: int, c_out: int, k: int = 3, *, secret: int = 0):
        super().__init__()
        self.conv = Conv(c_in, c_out, k)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Chain(nn.Module):
    def __init__(self, c_in: int, c_out: int, n: int, twist: bool = False):
        super().__init__()
        self.first, self.rest = Conv(c_in, c_out), nn.Sequential(*(Conv(c_out, c_out, 3) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x))


class Scale(nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Sum(nn.Module):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return torch.cat([maps[0] + maps[1], maps[0] - maps[1]], 1)


class Tiny(nn.Module):
    """A head without distributions' branches, only what a head must have."""

    def __init__(self, nc: int, channels: list[int]):
        super().__init__()
        self.nc, self.reg_max = nc, 2
        self.boxes = nn.ModuleList(nn.Conv2d(c, 8, 1) for c in channels)
        self.classes = nn.ModuleList(nn.Conv2d(c, nc, 1) for c in channels)

    def forward(self, maps: list[Tensor]) -> Raw:
        boxes, scores = (
            [conv(x).flatten(2) for conv, x in zip(convs, maps, strict=True)] for convs in (self.boxes, self.classes)
        )
        sizes = [tuple(x.shape[-2:]) for x in maps]
        return Raw({"boxes": torch.cat(boxes, 2), "scores": torch.cat(scores, 2)}, sizes)


def document(*rows, head=None, **keys) -> dict:
    return {"nc": 2, "backbone": [list(row) for row in rows], "head": head or [[[-1], 1, "Detect", ["nc"]]], **keys}


def test_every_kind_of_rule():
    register("Wide", Wide)  # a block, by default
    register("Chain", Chain, "stage")
    register("Scale", Scale, "same")
    register("Norm", nn.InstanceNorm2d, "norm")
    register("Plain", nn.Conv2d, "plain")
    register("Sum", Sum, "join")
    register("Tiny", Tiny, "head")
    doc = document(
        (-1, 2, "Wide", [32, 5]),
        (-1, 6, "Chain", [64, True]),
        (-1, 2, "Scale", [0.5]),
        (-1, 1, "Norm", []),
        (-1, 1, "Plain", [32, 10, 3, 2, 1]),
        ([-1, -1], 1, "Sum", []),
        head=[[[5, 4], 1, "Tiny", ["nc"]]],
        scales={"n": [0.5, 0.5]},
    )
    graph = resolve_graph(doc)
    assert [(row.args, row.times, row.channels) for row in graph.rows] == [
        ((3, 16, 5), 1, 16),
        ((16, 32, 3, True), 1, 32),
        ((0.5,), 1, 32),
        ((32,), 1, 32),
        ((32, 10, 3, 2, 1), 1, 10),
        ((), 1, 20),
        ((2,), 1, 0),
    ]
    model = Detector(graph)
    assert model.strides == (2.0, 2.0) and model.reg_max == 2
    raw = model.eval()(torch.rand(1, 3, 8, 8))
    assert raw["boxes"].shape == (1, 8, 32) and raw["scores"].shape == (1, 2, 32)
    assert summary(model, 64).rows[1][4].endswith("Chain")
    assert set(KINDS) == {"block", "stage", "same", "norm", "plain", "join", "head"}


def test_a_rule_with_everything():
    register("Deep", Chain, Rule("stage", modern=True, declared_input=True))
    graph = resolve_graph(document((-1, 1, "Conv", [16, 3, 2]), (-1, 1, "Deep", [99, 24])))
    assert graph.rows[1].args == (16, 24, 1) and graph.rows[2].keywords["legacy"] is False


def test_a_block_of_ones_own_in_a_yaml_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "nc: 3\nscales:\n  n: [1.0, 0.5]\nbackbone:\n  - [-1, 1, Conv, [16, 3, 2]]\n"
        "  - [-1, 2, Wide, [64, 1]]\n"
        "head:\n  - [[-1], 1, Detect, [nc]]\n"
    )
    with pytest.raises(UserError, match="backbone row 1 .Wide.: module 'Wide' is unknown"):
        build("mine.yaml")
    bitfalcon_plugin.register("Wide", Wide, "block")
    model = build("mine.yaml")
    assert [type(part) for part in model.model[1]] == [Wide, Wide] and model.graph.rows[1].args == (8, 32, 1)
    model.eval().fuse()(torch.rand(1, 3, 8, 8))


def test_its_arguments_are_checked_like_those_of_our_own():
    register("Wide", Wide)
    for args, told in (([8, "x"], "k='x' is not an integer"), ([8, 3, 1], "3 arguments"), ([8.5], "c_out=8.5")):
        with pytest.raises(UserError, match=told):
            resolve_graph(document((-1, 1, "Wide", args)))


def test_a_function_that_makes_a_module():
    def narrow(c_in: int, c_out: int) -> nn.Module:
        return Conv(c_in, c_out, 1)

    register("narrow", narrow)
    assert Detector(resolve_graph(document((-1, 1, "narrow", [8])))).model[0].conv.out_channels == 8


def test_the_same_again_is_fine_and_another_is_refused():
    register("Wide", Wide)
    register("Wide", Wide, Rule("block"))
    register("Conv", MODULES["Conv"].cls, MODULES["Conv"].rule)
    for name in ("Wide", "Conv", "nn.Conv2d", "torch.nn.Conv2d", "nn.Upsample", "torchvision.ops.MLP"):
        before = entry(name)
        with pytest.raises(UserError, match=f"register.'{name}'.*belongs to"):
            register(name, Chain)
        assert entry(name) == before
    with pytest.raises(UserError, match="belongs to"):
        register("Wide", Wide, "stage")


@pytest.mark.parametrize(
    ("name", "cls", "rule", "told"),
    [
        ("X", Wide, "blok", "rule 'blok' is unknown.*stage.*Did you mean 'block'"),
        ("X", 7, "block", "an nn.Module class"),
        ("", Wide, "block", "expected a name"),
        (" ", Wide, "block", "expected a name"),
        (5, Wide, "block", "expected a name"),
        ("X", Wide, 3, "expected a name.*rule"),
        ("X", type, "block", "arguments"),
    ],
)
def test_what_cannot_be_registered(name, cls, rule, told):
    with pytest.raises(UserError, match=told):
        register(name, cls, rule)
    assert "X" not in MODULES
    with pytest.raises(UserError, match="scaling 'c3' is unknown.*Did you mean 'c3k2'"):
        Rule("block", scaling="c3")


@pytest.mark.parametrize(
    ("cls", "rule", "args", "told"),
    [
        (Chain, "same", [8], "3 to 4: .c_in, c_out, n, twist"),
        (Scale, "block", [8], "takes 2 positional arguments"),
        (Wide, "join", [8, 8], "on row 0 8x128x128: conv2d"),
    ],
)
def test_a_class_that_does_not_fit_its_rule_is_told_with_its_row(cls, rule, args, told):
    register("Odd", cls, rule)
    with pytest.raises(UserError, match=f"row 1 .Odd.*{told}"):
        Detector(resolve_graph(document((-1, 1, "Conv", [8, 3, 2]), (-1, 1, "Odd", args))))


def test_a_module_that_breaks_the_promise_of_its_rule_is_told():
    register("Liar", lambda c_in, c_out: Conv(c_in, c_out + 1), "block")
    with pytest.raises(
        UserError, match="row 1 .Liar. on row 0 8x128x128: gives 9x128x128; its rule promises a map of 8 channels"
    ):
        Detector(resolve_graph(document((-1, 1, "Conv", [8, 3, 2]), (-1, 1, "Liar", [8]))))
    register("NoHead", lambda nc, channels: Sum(), "head")
    with pytest.raises(UserError, match="row 2 .NoHead.*gives modules.Raw"):
        Detector(
            resolve_graph(
                document((-1, 1, "Conv", [8, 3, 2]), (-1, 1, "Conv", [8]), head=[[[0, 1], 1, "NoHead", ["nc"]]])
            )
        )


def test_a_module_that_needs_values_is_counted_too():
    class Values(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum().item() > 1e9 else x + 1

    register("Values", Values, "same")
    plain, other = (
        Detector(resolve_graph(document((-1, 1, "Conv", [8, 3, 2]), *rows))) for rows in ((), ((-1, 1, "Values", []),))
    )
    state = {key: value.clone() for key, value in other.state_dict().items()}
    assert summary(other, 64).gflops == summary(plain, 64).gflops
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())


def test_names_of_libraries():
    for name in ("nn.Upsample", "torch.nn.Upsample", "torchvision.ops.SqueezeExcitation"):
        assert lookup(name).rule == Rule("same")
    for name in (
        "nn.Nothing",
        "nn.functional",
        "nn.init",
        "torchvision.ops.nms",
        "torchvision.models",
        "os.system",
        "nn.",
        "",
        "nn.modules.Conv2d",
        "nn.utils",
        "nn.Parameter",
        "nn.functional.relu",
        "torchvision.ops.boxes",
        "torchvision.ops.torchvision.ops.MLP",
        "nn.torch.nn.ReLU",
        "nn.nn.ReLU",
    ):
        with pytest.raises(KeyError):
            entry(name)
    assert {"Conv", "nn.Upsample", "torchvision.ops.MLP", "nn.Conv2d"} <= set(known_modules())


@pytest.mark.parametrize("prefix", LIBRARIES)
def test_the_lists_of_names_are_the_public_modules_of_the_libraries(prefix):
    package, names = LIBRARIES[prefix]
    library = importlib.import_module(package)
    classes = {name for name in dir(library) if isinstance(getattr(library, name), type)}
    modules = {name for name in classes if issubclass(getattr(library, name), nn.Module) and name[:4] != "Lazy"}
    assert modules <= names  # a newer version has more: add them
    assert all(name in modules or not hasattr(library, name) for name in names)


def test_a_name_that_is_in_no_list_imports_nothing(tmp_path):
    code = """
import sys
import bitfalcon_plugin.models.modules as modules
before = set(sys.modules)
for name in ("nn.utils", "nn.functional.relu", "nn.Parameter", "torchvision.ops.boxes", "nn.quantized"):
    try:
        modules.entry(name)
    except KeyError:
        continue
    raise SystemExit(name)
assert "nn.Upsample" in modules.known_modules()
print(sorted(name for name in set(sys.modules) - before if name.startswith("torch")))
"""
    assert run(tmp_path, code).stdout.strip() == "[]"


# Entry points


def distribution(folder: Path, code: str, value: str = "stripes:add") -> None:
    """A throw-away installed distribution: a module and the metadata that an installer would have written."""
    (folder / "stripes.py").write_text(code)
    info = folder / "stripes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[bitfalcon.modules]\nstripes = {value}\n")
    (folder / "striped.yaml").write_text(
        "nc: 2\nbackbone:\n  - [-1, 1, Conv, [8, 3, 2]]\n  - [-1, 1, Stripe, [16]]\n"
        "head:\n  - [[-1], 1, Detect, [nc]]\n"
    )


def run(folder: Path, code: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join((str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")))
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


GOOD = """
from torch import nn
import bitfalcon_plugin

class Stripe(nn.Conv2d):
    def __init__(self, c_in: int, c_out: int):
        super().__init__(c_in, c_out, (1, 7), padding=(0, 3))

def add():
    bitfalcon_plugin.register("Stripe", Stripe, "block")
"""

BUILD = """
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.build import build
try:
    for _ in range(2):
        model = build("striped.yaml")
    print("built", type(model.model[1]).__module__, tuple(model.model[1].weight.shape))
except UserError as error:
    print("refused", error)
"""


def test_a_distribution_brings_its_modules(tmp_path):
    distribution(tmp_path, GOOD)
    done = run(tmp_path, BUILD)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "built stripes (16, 8, 1, 7)"


def test_a_broken_distribution_ends_cleanly(tmp_path):
    distribution(tmp_path, "def add():\n    raise RuntimeError('no licence')\n")
    done = run(tmp_path, BUILD)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused The plugin 'stripes' (stripes:add)") and "no licence" in done.stdout


@pytest.mark.parametrize(
    ("code", "value", "told"),
    [
        ("import nothing_like_it\n", "stripes:add", "nothing_like_it"),
        (GOOD, "stripes:missing", "missing"),
        (GOOD.replace('"Stripe", Stripe', '"Conv", Stripe'), "stripes:add", "belongs to"),
        ("add = 5\n", "stripes:add", "not callable"),
    ],
)
def test_a_broken_distribution_is_named(tmp_path, monkeypatch, code, value, told):
    distribution(tmp_path, code, value)
    monkeypatch.syspath_prepend(tmp_path)
    _load_plugins.cache_clear()
    try:
        with pytest.raises(UserError) as error:
            resolve_graph(document((-1, 1, "Conv", [8, 3, 2])))
    finally:
        sys.modules.pop("stripes", None)
    text = str(error.value)
    assert text.startswith(f"The plugin 'stripes' ({value})") and told in text and "Repair or uninstall" in text
