"""The syntax trees of the shipped files, and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.paths import ROOT

# The shipped files, by their name inside the package ("data.images"; a package is "data").
SHIPPED = {
    ".".join(part for part in path.relative_to(folder).with_suffix("").parts if part != "__init__") or "__init__": path
    for folder, pattern in ((ROOT / "bitfalcon_plugin", "**/*.py"), (ROOT, "compat/*.py"))
    for path in sorted(folder.glob(pattern))
}


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


def load_time(tree: ast.Module) -> ast.Module:
    """The tree without the bodies of functions and of `if TYPE_CHECKING`: what runs when the module is imported."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if dotted(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

        visit_AsyncFunctionDef = visit_FunctionDef

    return Strip().visit(tree)
