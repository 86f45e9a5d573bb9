"""What is installed: the wheel, the wheel made from the sdist and the editable install hold the tree, and no more.

Built by the backend that pip calls, from a clean copy, without network. The list of packages in pyproject.toml forgets
a new folder in silence; here it is noticed.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

TOP = ("pyproject.toml", "README.md", "LICENSE")
FOLDERS = ("bitfalcon_plugin", "cfg", "compat")
PERMISSIVE = re.compile(r"\b(MIT|(Free)?BSD|Apache|PSF|MPL|ISC|HPND)\b", re.I)


def git_files(*options: str) -> list[str] | None:
    """What `git ls-files` lists here; None where this is no clone or git does not answer."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "ls-files", "-z", *options], cwd=ROOT, capture_output=True, text=True)
    return [name for name in done.stdout.split("\0") if name] if done.returncode == 0 else None


def tree() -> list[Path]:
    """The files of the project, relative to it: those git knows or would add; outside a clone, those that are there."""
    names = git_files("--cached", "--others", "--exclude-standard", *TOP, *FOLDERS)
    if names is None:
        found = [ROOT / name for name in TOP] + [path for name in FOLDERS for path in (ROOT / name).rglob("*")]
        names = [str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts]
    return [Path(name) for name in names if (ROOT / name).is_file()]


def installed_names() -> set[str]:
    """Where each file of the tree must lie under site-packages."""
    package = Path("bitfalcon_plugin")
    return {
        (path if path.parts[0] == "bitfalcon_plugin" else package / path).as_posix()
        for path in tree()
        if path.parts[0] in FOLDERS
    }


def build(source: Path, kind: str, into: Path) -> Path:
    """Call a hook of setuptools (build_wheel, build_sdist, build_editable) in `source`; the file that it made."""
    into.mkdir(parents=True, exist_ok=True)
    code = f"from setuptools import build_meta; import sys; print('made', build_meta.{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(into)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.rpartition("made ")[2].strip()


def contents(wheel: Path) -> tuple[set[str], str]:
    """The names of a wheel outside its dist-info, and the text of its entry points and metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        info = {name for name in names if name.split("/")[0].endswith(".dist-info")}
        about = "\n".join(archive.read(name).decode() for name in sorted(info) if name.endswith(("METADATA", ".txt")))
    return names - info, about


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree without anything that a build or a run left behind."""
    folder = tmp_path_factory.mktemp("clean")
    for path in tree():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    return folder


@pytest.fixture(scope="module")
def wheel(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(clean, "build_wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_tree_and_nothing_else(wheel: Path) -> None:
    names, about = contents(wheel)
    assert names == installed_names()
    assert {
        "bitfalcon_plugin/cfg/default.yaml",
        "bitfalcon_plugin/cfg/models/yolov12.yaml",
        "bitfalcon_plugin/cfg/hyp/yolov12-n.yaml",
    } <= names
    assert {"bitfalcon_plugin/compat/families.py", "bitfalcon_plugin/py.typed"} <= names
    assert "bitfalcon = bitfalcon_plugin.cli:main" in about and "License-Expression: MIT" in about


def test_a_wheel_from_the_sdist_is_the_same(clean: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build(clean, "build_sdist", tmp_path)) as archive:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from 3.10.12, 3.11.4
        archive.extractall(tmp_path / "unpacked", **safely)
    (source,) = (tmp_path / "unpacked").iterdir()
    again = build(source, "build_wheel", tmp_path / "again")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        names = contents(wheel)[0]
        assert contents(again)[0] == names
        assert all(one.read(name) == other.read(name) for name in names)


def look(site: Path, *, from_folder: Path) -> list[str]:
    """Where a bare interpreter (no site-packages but `site`) finds the parts of the package."""
    code = (
        "import site, sys, importlib.util as u; site.addsitedir(sys.argv[1]);"
        "print(u.find_spec('bitfalcon_plugin.compat').origin);"
        "from bitfalcon_plugin.config.files import cfg_dir; print(cfg_dir());"
        "print([n for n in ('cfg', 'compat', 'tests') if u.find_spec(n)])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(site)], cwd=from_folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_installed_wheel_finds_its_parts(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    package = site / "bitfalcon_plugin"
    assert look(site, from_folder=tmp_path) == [str(package / "compat" / "__init__.py"), str(package / "cfg"), "[]"]


def test_an_editable_install_finds_its_parts(clean: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build(clean, "build_editable", tmp_path / "made")) as archive:
        archive.extractall(tmp_path / "site")
    found = look(tmp_path / "site", from_folder=tmp_path)
    assert found == [str(clean / "compat" / "__init__.py"), str(clean / "cfg"), "[]"]


def test_every_dependency_is_permissive() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = [re.search(rf"^{name} = \[(.*?)\]$", text, re.M | re.S)[1] for name in ("dependencies", "test")]
    names = re.findall(r'"([\w-]+)>=', ",".join(lists))
    assert set(names) == {
        *("torch", "torchvision", "pyyaml", "pycocotools", "tqdm"),
        *("pytest", "pytest-xdist", "mypy", "ruff", "setuptools", "onnx", "onnxruntime", "hotcoco", "safetensors"),
        "onnxscript",
    }
    for name in names:
        about = metadata.metadata(name)
        words = [
            about.get("License-Expression") or "",
            (about.get("License") or "")[:100],
            *(line for line in about.get_all("Classifier") or [] if line.startswith("License")),
        ]
        assert PERMISSIVE.search(" ".join(words)) and "GPL" not in " ".join(words), (name, words)


def commands() -> list[str]:
    """The bash blocks of README.md, each stripped."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [block.strip() for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)]


def test_ci_runs_the_second_command_of_the_readme() -> None:
    assert len(commands()) >= 2, "README.md shows two commands, each a ```bash block"
    first, second = commands()[:2]
    assert "\n" not in first and "\n" not in second
    assert first.endswith(".venv/bin/bitfalcon task=train model=yolov12.yaml scale=n") and "pytest" in second
    script = ROOT / ".ci" / "run"
    assert second in script.read_text(encoding="utf-8").splitlines()
    assert os.name != "posix" or script.stat().st_mode & stat.S_IXUSR


@pytest.mark.skipif(git_files() is None, reason="not a clone: what else lies here is not the project's")
def test_only_the_agreed_names_lie_at_the_top() -> None:
    assert {name.split("/")[0] for name in git_files()} <= {*TOP, *FOLDERS, "tests", ".ci", ".gitignore"}
