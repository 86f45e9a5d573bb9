"""What must not stand in shipped files: nothing is evaluated, unpickled or fetched, and no other program is started."""

from __future__ import annotations

import ast
from collections.abc import Set

import pytest

from tests.helpers.syntax import SHIPPED, dotted, imports_of, outside_imports, own_imports, parse

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
# The file that opens connections, and only when a user gives allow_url=True.
NETWORK = {"predict.url": {"urllib", "http"}}
# The file that starts a program: pnnx, which has no library. It calls subprocess.run once, with a list of words.
STARTS = {"export.pnnx_program": {"subprocess"}}
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


def violations(tree: ast.Module, allowed: Set[str] = frozenset()) -> list[str]:
    """Return what a file must not hold: imports and calls. allowed: packages that this file may import all the same."""
    names = {name for name in outside_imports(tree) if name.partition(".")[0] not in allowed}
    problems = [
        f"imports {name}"
        for name in names
        if any(name == bad or name.startswith(bad + ".") for bad in FORBIDDEN_MODULES) or name in FORBIDDEN_CALLS
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node).startswith("torch.hub"):
            problems.append(f"line {node.lineno}: torch.hub")
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        keywords = {item.arg: item.value for item in node.keywords}
        if called in FORBIDDEN_CALLS:
            problems.append(f"line {node.lineno}: {called}()")
        if called.endswith("load") and "allow_pickle" in keywords:
            problems.append(f"line {node.lineno}: allow_pickle")
        safe = keywords.get("weights_only", ast.Constant(True))
        if not (isinstance(safe, ast.Constant) and safe.value is True):
            problems.append(f"line {node.lineno}: {called}(weights_only=...) that is not True")
    return problems


def test_nothing_evaluated_and_nothing_fetched() -> None:
    allowed = NETWORK | STARTS
    found = {name: violations(parse(path), allowed.get(name, frozenset())) for name, path in SHIPPED.items()}
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_one_file_starts_a_program_and_without_a_shell() -> None:
    (name,) = STARTS
    tree = parse(SHIPPED[name])
    uses = [
        node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and dotted(node).startswith("subprocess.")
    ]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and dotted(node.func) == "subprocess.run"]
    assert {dotted(node) for node in uses} == {"subprocess.run", "subprocess.DEVNULL"} and len(calls) == 1
    keywords = {item.arg: item.value for item in calls[0].keywords}
    assert None not in keywords and not {"shell", "executable"} & keywords.keys() and "cwd" in keywords
    (words,) = calls[0].args
    (made,) = (
        node.value for node in ast.walk(tree) if isinstance(node, ast.Assign) and dotted(node.targets[0]) == words.id
    )
    assert isinstance(made, ast.List) and dotted(made.elts[0]) == "pnnx.EXEC_PATH"


def test_one_file_fetches_and_two_ask_it() -> None:
    assert set(NETWORK) == {"predict.url"}
    callers = {
        name
        for name, path in SHIPPED.items()
        if "url" in path.read_text(encoding="utf-8")
        and "predict.url" in {target for _, target in own_imports(name, imports_of(path)[0], False)}
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
