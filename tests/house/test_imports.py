"""The house rules that a parser can check: imports point down, nothing is evaluated, nothing reaches the network."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

# The code that is shipped, by the name it is imported by inside the package ("data.images"; a package is "data").
SHIPPED = {
    ".".join(part for part in path.relative_to(folder).with_suffix("").parts if part != "__init__") or "__init__": path
    for folder, pattern in ((ROOT / "bitfalcon_plugin", "**/*.py"), (ROOT, "compat/*.py"))
    for path in sorted(folder.glob(pattern))
}

# Rooms from the ground up: a file imports from rooms on lines above its own line, and inside a room there is no circle.
FLOORS = (
    "config",
    "compat ops plots",
    "models data",
    "tasks",
    "predict",
    "val export",
    "train",
    "benchmark",
    "bit yolo",
    "cli integrations",
    "__main__",
)
STILL_LONG = {  # past the limits since ruff formats them; each is to be split by idea
    "tests/house/test_imports.py"
}
NO_TORCH = {
    "config",
    "config.callbacks",
    "config.checks",
    "config.command_line",
    "config.errors",
    "config.files",
    "config.listing",
    "config.notes",
    "config.settings",
    "config.table",
    "config.unused",
    "config.values",
    "config.version",
    "config.yaml_files",
    "export",
    "export.formats",
    "models",
    "models.graph",
    "models.graph.bit_policy",
    "models.graph.document",
    "models.graph.rows",
    "models.graph.rules",
    "cli",
    "__main__",
}
OUTSIDE = {"torch", "torchvision", "yaml", "pycocotools", "tqdm", "numpy", "PIL"}  # numpy, PIL: torchvision's own
EXTRAS = {  # optional packages: imported when a function is called
    "plots.figure": {"matplotlib"},
    "config.tabular": {"pandas"},
    "predict.video": {"cv2"},
    "export.runtimes.onnx": {"onnxruntime"},
    "export.runtimes.openvino": {"openvino"},
    "export.writers": {"onnx", "onnxruntime", "openvino", "nncf"},
}
ADAPTERS = {"integrations.sahi": {"sahi"}}  # for a package that they cannot be without: imported with it

FORBIDDEN_MODULES = {
    "ultralytics",
    "socket",
    "ssl",
    "urllib",
    "http",
    "requests",
    "httpx",
    "aiohttp",
    "ftplib",
    "smtplib",
    "xmlrpc",
    "webbrowser",
    "subprocess",
    "pip",
    "ensurepip",
    "torch.hub",
}
NETWORK = {
    "predict.url": {"urllib", "http"}
}  # the one file that opens connections, and only when a user gives allow_url=True
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "builtins.eval",
    "builtins.exec",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "yaml.load",
    "yaml.full_load",
    "yaml.unsafe_load",
    "yaml.load_all",
}
FORBIDDEN_NAMES = {"utils", "misc", "core", "engine", "base", "cfg"}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def dotted(node: ast.AST) -> str:
    """'torch.hub.load' for the attribute chain of that text, '' for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    head = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{head}.{node.attr}" if head else ""


def room(name: str) -> str:
    """The room of a module: the folder at the top of the package, or the file there."""
    return name.partition(".")[0]


def floor(name: str) -> int:
    """The line of FLOORS on which the room of a module stands; -1 where the room is not listed."""
    return next((number for number, line in enumerate(FLOORS) if room(name) in line.split()), -1)


def own_imports(name: str, tree: ast.Module, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line number, module of ours) for every import of our own code, also those inside functions."""
    here = [part for part in name.split(".") if part != "__init__"]
    here = here if is_package else here[:-1]
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
    """Whether `target` stands in another room that file `name` may not import from."""
    return room(target) != room(name) and floor(target) >= floor(name)


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Names that import each other in a circle, the first once more at the end; [] where there is no circle."""
    done: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        found = next(filter(None, (search(target, [*path, name]) for target in sorted(imports.get(name, ())))), [])
        done.add(name)
        return found

    return next(filter(None, (search(name, []) for name in sorted(imports))), [])


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
    found = [
        f"imports {name}"
        for name in names
        if any(name == bad or name.startswith(bad + ".") for bad in FORBIDDEN_MODULES) or name in FORBIDDEN_CALLS
    ]
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
    """The tree without the bodies of functions and of `if TYPE_CHECKING`: what runs when the module is imported."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if dotted(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

        visit_AsyncFunctionDef = visit_FunctionDef

    return Strip().visit(tree)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "__init__"])
def test_imports_point_down(name: str) -> None:
    assert floor(name) >= 0, f"{name}: give its room a place in FLOORS"
    tree = parse(SHIPPED[name])
    wrong = [
        f"{SHIPPED[name].name}:{line} imports {target}"
        for line, target in own_imports(name, tree, SHIPPED[name].name == "__init__.py")
        if upward(name, target)
    ]
    assert not wrong


def test_no_circle_inside_a_room() -> None:
    imports = {
        name: {
            target
            for _, target in own_imports(name, parse(path), path.name == "__init__.py")
            if room(target) == room(name)
        }
        for name, path in SHIPPED.items()
    }
    assert circle(imports) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"] and circle({"a": {"a"}}) == ["a", "a"]


def test_floors_list_no_more_than_there_is() -> None:
    assert {word for line in FLOORS for word in line.split()} == {room(name) for name in SHIPPED} - {"__init__"}


def test_at_the_top_there_are_doors_and_rooms_only() -> None:
    assert {path.name for path in (ROOT / "bitfalcon_plugin").glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "yolo.py",
        "cli.py",
    }


def test_the_rule_sees_every_form_of_import() -> None:
    text = (
        "from ..yolo import x\nfrom ..config import errors\nimport bitfalcon_plugin.models.detector\n"
        "def f():\n  from .assign import y\nfrom ..bit import packing"
    )
    found = dict(own_imports("tasks.detect", ast.parse(text), False))
    assert found == {1: "yolo", 2: "config.errors", 3: "models.detector", 5: "tasks.assign", 6: "bit.packing"}
    assert [name for name in found.values() if upward("tasks.detect", name)] == ["yolo", "bit.packing"]
    assert (
        upward("models.build", "data.dataset")
        and upward("data.dataset", "models.build")
        and not upward("cli", "config.settings")
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_evaluated_and_nothing_fetched(name: str) -> None:
    assert violations(parse(SHIPPED[name]), NETWORK.get(name, frozenset())) == []


def test_one_file_fetches_and_two_ask_it() -> None:
    assert set(NETWORK) == {"predict.url"}
    callers = {
        name
        for name, path in SHIPPED.items()
        if "predict.url" in {target for _, target in own_imports(name, parse(path), False)}
    }
    assert callers == {"predict.reader", "predict.sources"}


@pytest.mark.parametrize(
    "bad",
    [
        "import ultralytics",
        "from ultralytics import YOLO",
        "import urllib.request",
        "from torch import hub",
        "import torch\ntorch.hub.load_state_dict_from_url('x')",
        "eval('1')",
        "exec('1')",
        "import os\nos.system('x')",
        "from os import system",
        "import subprocess",
        "import yaml\nyaml.load(t, yaml.Loader)",
        "from yaml import load",
        "import torch\ntorch.load(p, weights_only=False)",
        "import torch\ntorch.load(p, weights_only=flag)",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
        "import pickle\npickle.loads(b)",
    ],
)
def test_the_rule_sees_what_it_forbids(bad: str) -> None:
    assert violations(ast.parse(bad))


@pytest.mark.parametrize(
    "good",
    [
        "model.eval()",
        "import torch\ntorch.compile(m)",
        "import re\nre.compile('a')",
        "import yaml\nyaml.safe_load(t)",
        "import torch\ntorch.load(p)",
        "import torch\ntorch.load(p, weights_only=True)",
        "import json\njson.load(f)",
    ],
)
def test_the_rule_lets_the_rest_pass(good: str) -> None:
    assert violations(ast.parse(good)) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_only_declared_packages_are_imported(name: str) -> None:
    allowed = {"torch"} if name.partition(".")[0] == "compat" else OUTSIDE
    tree, known = parse(SHIPPED[name]), allowed | set(sys.stdlib_module_names)
    assert {module.partition(".")[0] for module in outside_imports(load_time(tree))} <= known | ADAPTERS.get(
        name, set()
    )
    assert {module.partition(".")[0] for module in outside_imports(tree)} <= known | EXTRAS.get(
        name, set()
    ) | ADAPTERS.get(name, set())


@pytest.mark.parametrize("name", sorted(NO_TORCH))
def test_no_torch_before_it_is_needed(name: str) -> None:
    tree = load_time(parse(SHIPPED[name]))
    assert not {module.partition(".")[0] for module in outside_imports(tree)} & (OUTSIDE - {"yaml"})
    assert {target for _, target in own_imports(name, tree, False)} <= NO_TORCH


@pytest.mark.parametrize("name", SHIPPED)
def test_torchvision_is_imported_where_it_is_used(name: str) -> None:
    """Its import takes torch's compiler with it and doubles the start of every command."""
    assert "torchvision" not in {
        module.partition(".")[0] for module in outside_imports(load_time(parse(SHIPPED[name])))
    }


def test_the_package_itself_imports_nothing() -> None:
    tree = load_time(parse(SHIPPED["__init__"]))
    assert not list(own_imports("__init__", tree, True))
    assert outside_imports(tree) <= {"__future__", "__future__.annotations"}


@pytest.mark.parametrize(
    "path",
    sorted(path for folder in ("bitfalcon_plugin", "compat", "tests") for path in (ROOT / folder).rglob("*.py")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_files_and_functions_stay_short(path: Path) -> None:
    if str(path.relative_to(ROOT)) in STILL_LONG:
        pytest.skip("formatted, and not yet split")
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    assert [node.name for node in functions if node.end_lineno - node.lineno + 1 > 60] == []
    assert not FORBIDDEN_NAMES & {path.stem, path.parent.name}


def test_cfg_holds_data_only() -> None:
    files = [path.relative_to(ROOT / "cfg") for path in (ROOT / "cfg").rglob("*") if path.is_file()]
    assert [str(path) for path in files if path.suffix != ".yaml" and str(path) != "README.md"] == []
