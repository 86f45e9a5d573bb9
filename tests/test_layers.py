"""The house rules that a parser can check: imports point down, nothing is evaluated, nothing reaches the network."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The code that is shipped, by the name it is imported by inside the package ("data.images"; a package is "data").
SHIPPED = {
    ".".join(part for part in path.relative_to(folder).with_suffix("").parts if part != "__init__") or "__init__": path
    for folder, pattern in ((ROOT / "bitfalcon_plugin", "**/*.py"), (ROOT, "compat/*.py"))
    for path in sorted(folder.glob(pattern))
}

# A file imports from lines above its own. A sub-package stands on one line; its own files are ordered in INSIDE.
LINES = (
    "errors",
    "files events",
    "rules locate devices fetch video engines.formats",
    "policy",
    "choices",
    "config graph boxes drawing compat",
    "commands detections modules figures idle",
    "results curves tradeoff quick",
    "metrics",
    "bit bit.trits bit.flat",
    "model data training training.assign training.loss training.optim",
    "timing",
    "checkpoint sources bit.report benchtable",
    "engines",
    "ahead",
    "foreign transfer survey bit.packing",
    "doctor",
    "validate predict",
    "worst",
    "training.memory training.setup training.pictures training.interrupts training.guard training.records training.trainer "
    "training.prepare training.loop",
    "inputs",
    "measuring experiment bit.calibration",
    "info runs outputs export",
    "selftest sizes bit.qat contenders",
    "bit.scan bench",
    "bit.study",
    "facade",
    "integrations",
    "api",
    "cli",
    "__main__",
)
INSIDE = {
    "compat": ("compat", "compat.allowed compat.remap", "compat.opcodes compat.families", "compat.archive compat.standins",
               "compat.reader"),
    "modules": ("modules.conv modules.integer", "modules.quantised", "modules.frozen", "modules.blocks modules.head modules.ternary",
                "modules.attention modules.bit modules.replace", "modules"),
    "bit": ("bit", "bit.trits bit.report", "bit.flat", "bit.packing bit.calibration", "bit.qat", "bit.scan", "bit.study"),
    "data": ("data", "data.colour data.geometry data.images data.labels data.outlines data.shapes",
             "data.cache data.looks data.scenes data.spec", "data.blend data.dataset data.reading", "data.augment", "data.loader"),
    "training": ("training", "training.assign training.optim training.interrupts training.guard training.distributed",
                 "training.loss training.records training.launch", "training.memory training.setup training.pictures", "training.trainer",
                 "training.prepare", "training.loop"),
    "integrations": ("integrations", "integrations.sahi"),
    "engines": ("engines", "engines.formats engines.metadata engines.placing engines.suppressing", "engines.interface engines.traced",
                "engines.with_onnxruntime engines.with_openvino engines.with_pt2", "engines.with_torchscript",
                "engines.comparing engines.opening engines.writing"),
}
NO_TORCH = {"engines.formats", "errors", "policy", "files", "rules", "locate", "choices", "config", "graph", "idle", "commands", "cli", "__main__"}
OUTSIDE = {"torch", "torchvision", "yaml", "pycocotools", "tqdm", "numpy", "PIL"}  # numpy, PIL: torchvision's own
EXTRAS = {  # optional packages: imported when a function is called
    "figures": {"matplotlib"}, "metrics": {"pandas"}, "results": {"pandas"}, "video": {"cv2"}, "engines.with_onnxruntime": {"onnxruntime"},
    "engines.with_openvino": {"openvino"}, "engines.writing": {"onnx", "onnxruntime", "openvino", "nncf"},
}
ADAPTERS = {"integrations.sahi": {"sahi"}}  # for a package that they cannot be without: imported with it

FORBIDDEN_MODULES = {
    "ultralytics", "socket", "ssl", "urllib", "http", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "xmlrpc",
    "webbrowser", "subprocess", "pip", "ensurepip", "torch.hub",
}
NETWORK = {"fetch": {"urllib", "http"}}  # the one file that opens connections, and only when a user gives allow_url=True
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "os.system", "os.popen", "pickle.load",
    "pickle.loads", "pickle.Unpickler", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all",
}
FORBIDDEN_NAMES = {"utils", "misc", "core", "engine", "base", "helpers", "cfg"}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def dotted(node: ast.AST) -> str:
    """'torch.hub.load' for the attribute chain of that text, '' for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    head = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{head}.{node.attr}" if head else ""


def rank(name: str, lines: tuple[str, ...]) -> int:
    """The line a module stands on, or its package; -1 where neither is listed."""
    places = {known: number for number, line in enumerate(lines) for known in line.split()}
    return places.get(name, places.get(name.partition(".")[0], -1))


def own_imports(name: str, tree: ast.Module, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line number, module of ours) for every import of our own code, also those inside functions."""
    here = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            absolute = (node.module or "").split(".")
            if node.level:
                parts = here[: len(here) - node.level + 1] + (absolute if node.module else [])
            elif absolute[0] == "bitfalcon_plugin":
                parts = absolute[1:]
            else:
                continue
            for item in node.names:
                for target in (".".join([*parts, item.name]), ".".join(parts)):
                    if target in SHIPPED:
                        yield node.lineno, target
                        break
        elif isinstance(node, ast.Import):
            for item in node.names:
                if item.name.startswith("bitfalcon_plugin."):
                    yield node.lineno, item.name.partition(".")[2]


def upward(name: str, target: str) -> bool:
    """Whether file `name` may not import `target`."""
    package = name.partition(".")[0]
    if package in INSIDE and target.partition(".")[0] == package:
        return rank(target, INSIDE[package]) >= rank(name, INSIDE[package])
    return rank(target, LINES) >= rank(name, LINES)


def outside_imports(tree: ast.AST) -> set[str]:
    """Dotted names of everything imported that is not ours: modules, and the names taken from them."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module, *(f"{node.module}.{item.name}" for item in node.names)}
    return {name for name in found if not name.startswith("bitfalcon_plugin")}


def violations(tree: ast.Module, allowed: Set[str] = frozenset()) -> list[str]:
    """What must never stand in shipped code. allowed: packages that this file may import all the same."""
    names = {name for name in outside_imports(tree) if name.partition(".")[0] not in allowed}
    found = [f"imports {name}" for name in names
             if any(name == bad or name.startswith(bad + ".") for bad in FORBIDDEN_MODULES) or name in FORBIDDEN_CALLS]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node).startswith("torch.hub"):
            found.append(f"line {node.lineno}: torch.hub")
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        keywords = {item.arg: item.value for item in node.keywords}
        if called in FORBIDDEN_CALLS:
            found.append(f"line {node.lineno}: {called}()")
        if called.endswith("load") and "allow_pickle" in keywords:
            found.append(f"line {node.lineno}: allow_pickle")
        safe = keywords.get("weights_only", ast.Constant(True))
        if not (isinstance(safe, ast.Constant) and safe.value is True):
            found.append(f"line {node.lineno}: {called}(weights_only=...) that is not True")
    return found


def load_time(tree: ast.Module) -> ast.Module:
    """The tree without the bodies of functions: what runs when the module is imported."""
    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

    return Strip().visit(tree)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "__init__"])
def test_imports_point_down(name: str) -> None:
    assert rank(name, LINES) >= 0, f"{name}: give it a place in LINES"
    package = name.partition(".")[0]
    if package in INSIDE:
        assert any(name in line.split() for line in INSIDE[package]), f"{name}: give it a place in INSIDE"
    tree = parse(SHIPPED[name])
    wrong = [f"{SHIPPED[name].name}:{line} imports {target}"
             for line, target in own_imports(name, tree, SHIPPED[name].name == "__init__.py") if upward(name, target)]
    assert not wrong


def test_table_lists_no_more_than_there_is() -> None:
    files = {word for lines in INSIDE.values() for line in lines for word in line.split()}
    known = files | {word for line in LINES for word in line.split()}
    assert known <= set(SHIPPED)


def test_the_rule_sees_every_form_of_import() -> None:
    text = "from ..results import x\nfrom .. import cli\nimport bitfalcon_plugin.model\ndef f():\n  from .loss import y"
    found = dict(own_imports("training.assign", ast.parse(text), False))
    expected = {1: "results", 2: "cli", 3: "model", 5: "training.loss"}
    assert found == expected
    seen = [name for name in expected.values() if upward("training.assign", name)]
    assert seen == ["cli", "model", "training.loss"]
    assert not upward("training.loss", "training.assign") and not upward("cli", "config")


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_evaluated_and_nothing_fetched(name: str) -> None:
    assert violations(parse(SHIPPED[name]), NETWORK.get(name, frozenset())) == []


def test_one_file_fetches_and_two_ask_it() -> None:
    assert set(NETWORK) == {"fetch"}
    callers = {name for name, path in SHIPPED.items() if "fetch" in {target for _, target in own_imports(name, parse(path), False)}}
    assert callers == {"ahead", "sources"}


@pytest.mark.parametrize("bad", [
    "import ultralytics", "from ultralytics import YOLO", "import urllib.request", "from torch import hub",
    "import torch\ntorch.hub.load_state_dict_from_url('x')", "eval('1')", "exec('1')", "import os\nos.system('x')",
    "from os import system", "import subprocess", "import yaml\nyaml.load(t, yaml.Loader)", "from yaml import load",
    "import torch\ntorch.load(p, weights_only=False)", "import torch\ntorch.load(p, weights_only=flag)",
    "import numpy as np\nnp.load(p, allow_pickle=True)", "import pickle\npickle.loads(b)",
])
def test_the_rule_sees_what_it_forbids(bad: str) -> None:
    assert violations(ast.parse(bad))


@pytest.mark.parametrize("good", [
    "model.eval()", "import torch\ntorch.compile(m)", "import re\nre.compile('a')", "import yaml\nyaml.safe_load(t)",
    "import torch\ntorch.load(p)", "import torch\ntorch.load(p, weights_only=True)", "import json\njson.load(f)",
])
def test_the_rule_lets_the_rest_pass(good: str) -> None:
    assert violations(ast.parse(good)) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_only_declared_packages_are_imported(name: str) -> None:
    allowed = {"torch"} if name.partition(".")[0] == "compat" else OUTSIDE
    tree, known = parse(SHIPPED[name]), allowed | set(sys.stdlib_module_names)
    assert {module.partition(".")[0] for module in outside_imports(load_time(tree))} <= known | ADAPTERS.get(name, set())
    assert {module.partition(".")[0] for module in outside_imports(tree)} <= known | EXTRAS.get(name, set()) | ADAPTERS.get(name, set())


@pytest.mark.parametrize("name", sorted(NO_TORCH))
def test_no_torch_before_it_is_needed(name: str) -> None:
    tree = load_time(parse(SHIPPED[name]))
    assert not {module.partition(".")[0] for module in outside_imports(tree)} & (OUTSIDE - {"yaml"})
    assert {target for _, target in own_imports(name, tree, False)} <= NO_TORCH


@pytest.mark.parametrize("name", SHIPPED)
def test_torchvision_is_imported_where_it_is_used(name: str) -> None:
    """Its import takes torch's compiler with it and doubles the start of every command."""
    assert "torchvision" not in {module.partition(".")[0] for module in outside_imports(load_time(parse(SHIPPED[name])))}


def test_the_package_itself_imports_nothing() -> None:
    tree = load_time(parse(SHIPPED["__init__"]))
    assert not list(own_imports("__init__", tree, True))
    assert outside_imports(tree) <= {"__future__", "__future__.annotations"}


@pytest.mark.parametrize("path", sorted(
    path for folder in ("bitfalcon_plugin", "compat", "tests") for path in (ROOT / folder).rglob("*.py")
), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    assert [node.name for node in functions if node.end_lineno - node.lineno + 1 > 60] == []
    assert not FORBIDDEN_NAMES & {path.stem, path.parent.name}


def test_cfg_holds_data_only() -> None:
    assert [path for path in (ROOT / "cfg").rglob("*") if path.is_file() and path.suffix != ".yaml"] == []
