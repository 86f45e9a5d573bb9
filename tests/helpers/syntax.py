"""The syntax trees of the shipped files, and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.helpers.paths import ROOT

# The shipped files, by their name inside the package ("data.images"; a package is "data").
SHIPPED = {
    ".".join(part for part in path.relative_to(folder).with_suffix("").parts if part != "__init__") or "__init__": path
    for folder, pattern in ((ROOT / "bitfalcon_plugin", "**/*.py"), (ROOT, "compat/*.py"))
    for path in sorted(folder.glob(pattern))
}

BLOCKS = (ast.stmt, ast.ExceptHandler, ast.match_case)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def dotted(node: ast.AST) -> str:
    """'torch.hub.load' for the attribute chain of that text, '' for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    head = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{head}.{node.attr}" if head else ""


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


def outside_imports(tree: ast.AST) -> set[str]:
    """The dotted names of everything imported that is not ours: modules, and the names taken from them."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {node.module, *(f"{node.module}.{item.name}" for item in node.names)}
    return {name for name in names if not name.startswith("bitfalcon_plugin")}


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements of a tree, those inside of others too, without looking into expressions."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, BLOCKS)]


@cache
def imports_of(path: Path) -> tuple[ast.Module, ast.Module]:
    """Return two trees that hold nothing but imports: all of a file, and those that run when the file is imported.

    The second is without functions and without `if TYPE_CHECKING`.
    """
    tree = parse(path)
    later = set()
    for node in statements(tree):
        checks_types = isinstance(node, ast.If) and dotted(node.test) == "TYPE_CHECKING"
        if checks_types or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            later |= {*statements(node)}
    imports = [node for node in statements(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return ast.Module(imports, []), ast.Module([node for node in imports if node not in later], [])
