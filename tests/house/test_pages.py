"""Every command, script and YAML of every page runs, in a folder that holds the files which pages name."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import bitfalcon_plugin.benchmark.run as benchmark
import bitfalcon_plugin.benchmark.sizes as sizes
from bitfalcon_plugin import YOLO
from bitfalcon_plugin.benchmark.candidates import Candidate, list_candidates
from bitfalcon_plugin.benchmark.quiet import Quiet
from bitfalcon_plugin.benchmark.trial import Trial
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.listing import settings_table
from bitfalcon_plugin.data import shapes
from bitfalcon_plugin.data.formats.dataset_yaml import read_data
from bitfalcon_plugin.export.formats import support_table
from bitfalcon_plugin.export.run import run_export
from bitfalcon_plugin.models.build import resolve_graph
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.modules import MODULES
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
from bitfalcon_plugin.predict.video import SUFFIX, VideoWriter
from tests.helpers import posed, turned
from tests.helpers.class_folders import class_folders
from tests.helpers.coloured import lay_out
from tests.helpers.exports import has_onnx, made, tiny_classify, tiny_obb, tiny_pose, tiny_segment
from tests.helpers.fake_tracker import clip
from tests.helpers.foreign import write
from tests.helpers.harbour import lay_out_dota
from tests.helpers.paths import ROOT
from tests.helpers.running import restored
from tests.models.test_conformance import VECTORS, foreign_state

FOLDERS = ("bitfalcon_plugin", "cfg", "compat", "tests")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted(path for name in FOLDERS for path in (ROOT / name).rglob("README.md")))
}

# Marks around the tables that the program prints.
TABLES = {"settings": settings_table, "exports": support_table}
# Commands and scripts that hold one of these texts are not run here.
NOT_RUN = {
    "python3 -m venv": "makes an environment; CI runs the second command, whoever releases runs the first",
    "pip install": "installs packages",
    "python -m pytest": "the tests that are running now",
    "ruff format": "tests/house/test_style.py checks layout and mistakes",
    "python tests/bench/": "measures for minutes; each file is run by hand",
    "bitfalcon run notebook.ipynb": "needs a kernel; tests/dropin/test_notebook.py runs one",
    "bitfalcon selftest": "trains for minutes; tests/benchmark/test_selftest.py replaces the training",
    "torchrun": "needs two machines; tests/train/test_machines.py trains with two agents on one",
    "TorchTrainer": "needs a Ray cluster with GPUs",
    "format=engine": "needs an NVIDIA GPU; tests/export/test_tensorrt.py runs one where it is",
    "best.engine": "as above",
}
# Scripts that import these packages are run only where the packages are installed.
OPTIONAL = ("supervision", "sahi", "cv2", "onnxruntime", "ray")
# Commands and scripts that hold one of these texts are run only where the package is installed.
NEEDS = {
    "bitfalcon track": "trackers",
    ".track(": "trackers",
    "bitfalcon tune": "optuna",
    "best_hyperparameters.yaml": "optuna",
    ".tune(": "optuna",
    "safetensors": "safetensors",
    "loggers=wandb": "wandb",
    "loggers=mlflow": "mlflow",
    "hub": "safetensors",
}

# What a command that trains is given in the place of the page's values, and added where the page has none.
SHORT = {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0, "device": "cpu", "plots": False}
# What takes the place of the page's value where a command has one; GPUs are not asked for.
SMALL = {"imgsz": "64", "device": "cpu"}
MEASURING = ("bit", "benchmark")  # verbs that get imgsz in any case
RESUMED_EPOCHS = "epochs=4"  # the unfinished run of the folder has 3
TRAINING = ("train", "task=train", "mode=train", "task=sizes", "sizes", "mode=qat", "tune")
TRIALS = {"iterations=60": "iterations=3"}  # more than those that a search has already
# Engines that the benchmarks of pages leave out, because exporting or compiling takes most of the time. The formats are
# written and run by tests/export/test_deployed_formats.py. The benchmarks still compile in float32, and they still
# compute in bfloat16 without compiling.
SLOW_ENGINES = ("executorch", "litert", "compile bf16")
WITH_UNFINISHED_RUN = "bitfalcon_plugin/train/README.md"  # the page that resumes a run before a command has begun one


def blocks(text: str, language: str) -> list[str]:
    """The blocks of a page in a language (bash, python, yaml)."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands(text: str) -> list[str]:
    """The commands of a page without comments; lines that end with a backslash are joined with the next."""
    lines = "".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.partition("#")[0].strip()]


def shortened(words: list[str]) -> list[str]:
    """Return the words of a command with the values of SHORT or SMALL."""
    if "train" in words and any(word.startswith("resume=") for word in words):
        return [RESUMED_EPOCHS if word.startswith("epochs=") else word for word in words]
    if words[0] == "run" or not set(words) & set(TRAINING):
        given = [word.partition("=")[0] for word in words]
        words = [f"{key}={SMALL[key]}" if key in SMALL else word for key, word in zip(given, words)]
        return [*words, "imgsz=64"] if words[0] in MEASURING and "imgsz" not in given else words
    rest = [word for word in words if word.partition("=")[0] not in SHORT]
    rest = [TRIALS.get(word, "iterations=2") if word.startswith("iterations=") else word for word in rest]
    rest = ["scale=n" if word in ("scale=s", "scale=m", "scale=l", "scale=x") else word for word in rest]
    return [*rest, *(f"{key}={value}" for key, value in SHORT.items())]


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A folder with a dataset, pictures, checkpoints of ours and of other makers, and a run that was interrupted."""
    folder = tmp_path_factory.mktemp("pages")
    lay_out(folder)
    for name in ("images", "labels"):
        shutil.move(folder / "data" / name, folder / name)
    for image in (folder / "images/val").iterdir():
        shutil.copy(image, folder / "images")
    data = {"path": ".", "train": "images/train", "val": "images/val", "test": "images/val"}
    for name in ("data.yaml", "coco.yaml"):
        (folder / name).write_text(yaml.safe_dump({**data, "names": ["red", "green", "blue"]}))
    class_folders(folder / "animals")
    lay_out_dota(folder / "DOTA")
    for name, lay in (("poses", posed.lay_out), ("boats", turned.lay_out)):
        (folder / name).mkdir()
        lay(folder / name)
        document = yaml.safe_load((folder / name / "data/data.yaml").read_text())
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**document, "path": f"{name}/data"}))
    for name, model in (("best-pose.pt", tiny_pose()), ("best-obb.pt", tiny_obb())):
        save_checkpoint(folder / name, Checkpoint(model.graph, model.state_dict()))
    for name in ("image.jpg", "large.jpg"):
        Image.open(folder / "images/0.png").convert("RGB").save(folder / name)
    if _installed("trackers"):
        _video(folder)
    if has_onnx:
        exported = {"seg": tiny_segment(), "cls": tiny_classify(), "pose": tiny_pose(), "obb": tiny_obb()}
        for name, model in exported.items():
            run_export(model, made(format="onnx", out=str(folder / f"best-{name}.onnx")), f"small-{name}.yaml")
    class_folders(folder / "animals")
    save_checkpoint(folder / "best-cls.pt", Checkpoint((classifier := tiny_classify()).graph, classifier.state_dict()))
    (folder / "tools").mkdir()
    for name in ("script.py", "tools/count.py"):
        (folder / name).write_text("from ultralytics import YOLO\nprint(YOLO('best.pt').names)\n")
    _interrupted_run(folder)
    shutil.copy(folder / "runs/detect/train/weights/best.pt", folder / "best.pt")
    for name, vector in (("yolov12n.pt", "checkpoint-v1-n-released-layout"), ("turbo-n.pt", "checkpoint-turbo-n")):
        state = foreign_state(VECTORS[vector], True)
        write(folder / name, state, attributes={"names": {i: f"thing{i}" for i in range(80)}, "nc": 80}, epoch=-1)
    return folder


def _video(folder: Path) -> None:
    """Leave video.mp4, and mot/ with its frames and the true identity of one object."""
    frames, numbers = clip(4), range(1, 5)
    writer = VideoWriter(folder / f"video{SUFFIX}", 25.0, frames[0].shape[:2])
    for number, frame in zip(numbers, frames):
        writer.write(frame)
        (folder / "mot/img1").mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame[..., ::-1]).save(folder / f"mot/img1/{number:06}.jpg")
    writer.close()
    (folder / f"video{SUFFIX}").replace(folder / "video.mp4")
    (folder / "mot/gt").mkdir()
    (folder / "mot/gt/gt.txt").write_text("".join(f"{number},1,4,6,20,24,1,1,1\n" for number in numbers))


def _interrupted_run(folder: Path) -> None:
    """Leave runs/detect/train as after Ctrl-C in the second of three epochs."""

    def interrupt(trainer) -> None:
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    model = YOLO(folder / "small.yaml")
    model.add_callback("on_train_epoch_start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.train(data=folder / "data.yaml", project=folder / "runs/detect", name="train", **{**SHORT, "epochs": 3})


@pytest.fixture()
def here(template, tmp_path, monkeypatch, request) -> Path:
    """A copy of the template as the current folder."""
    folder = tmp_path / "here"
    shutil.copytree(template, folder)
    if request.getfixturevalue("page") != WITH_UNFINISHED_RUN:
        shutil.rmtree(folder / "runs")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture()
def quick(monkeypatch, tmp_path):
    """Few rounds of timing, of one batch, and runtimes in no process of their own; tests/benchmark tests all of it.

    SLOW_ENGINES are left out. Of the generated datasets few pictures are drawn, into a cache of this test's own.
    """
    monkeypatch.setattr(shapes, "COUNTS", {"train": 8, "val": 4})
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(benchmark, "list_candidates", _quick_candidates)
    monkeypatch.setattr(benchmark, "ROUNDS", 2)
    monkeypatch.setattr(benchmark, "BATCHES", (1,))
    monkeypatch.setattr(benchmark, "WARMUP", 0)
    monkeypatch.setattr(benchmark, "run_trial", lambda *_: Trial(1.0, 0.5, 0.25, 0.1, 123_000_000))
    monkeypatch.setattr(benchmark, "measure_quiet", lambda: Quiet(2, 2.0))  # computes for half a second
    monkeypatch.setattr(sizes, "ROUNDS", 2)


def _quick_candidates(*given) -> list[Candidate]:
    return [each for each in list_candidates(*given) if not each.name.startswith(SLOW_ENGINES)]


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _not_run(text: str) -> bool:
    return any(part in text for part in NOT_RUN) or _lacks_package(text)


def _lacks_package(text: str) -> bool:
    return any(part in text and not _installed(package) for part, package in NEEDS.items())


@pytest.mark.parametrize("page", [page for page in PAGES if not all(map(_not_run, commands(PAGES[page])))])
def test_commands(page, here, quick, capsys):
    """All commands of a page in their order, in one folder."""
    for command in filter(lambda line: not _not_run(line), commands(PAGES[page])):
        name, *words = shlex.split(command.partition("|")[0])
        assert name == "bitfalcon", f"{command}: say in NOT_RUN why it is not run, or run it here"
        with restored():
            code = main(shortened(words))
        output = capsys.readouterr()
        if words[0] == "doctor":  # ends with 1 where a dataset has warnings; the copies in images/ are such
            code = 0 if code == 1 and "warning" in output.out else code
        assert code == 0, f"{command}: {output.err}"
        if "| jq" in command:
            key = command.rpartition(".")[2]
            assert all(key in json.loads(line) for line in output.out.splitlines()) and output.out


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(PAGES[page], "python")])
def test_scripts(page, here, monkeypatch):
    """All scripts of a page."""
    train, tune = YOLO.train, YOLO.tune
    monkeypatch.setattr(YOLO, "train", lambda self, **given: train(self, **{**given, **SHORT}))
    monkeypatch.setattr(YOLO, "tune", lambda self, **given: tune(self, **{**given, **SHORT, "iterations": 2}))
    monkeypatch.setattr("bitfalcon_plugin.models.modules.MODULES", dict(MODULES))  # scripts may register modules
    for script in blocks(PAGES[page], "python"):
        if any(f"import {name}" in script or f"from {name}" in script for name in OPTIONAL if not _installed(name)):
            continue
        if _not_run(script):
            continue
        with restored():
            exec(compile(script, page, "exec"), {"batches": [torch.rand(2, 3, 64, 64)]})


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(PAGES[page], "yaml")])
def test_yaml_files(page, here):
    """Graphs build, also with single keys of a graph; datasets are read, whose annotation files are not here."""
    for text in blocks(PAGES[page], "yaml"):
        document = yaml.safe_load(text)
        if "train" not in document:
            graph = {**yaml.safe_load(Path("small.yaml").read_text()), **document}
            assert Detector(resolve_graph(graph)).nc == graph["nc"]
        else:
            Path("example.yaml").write_text(text)
            data, problems = read_data("example.yaml")
            assert data.names == document.get("names", {}) and problems == []


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_that_the_program_prints(name):
    """To repair: `bitfalcon cfg --markdown` prints the settings, support_table() of export/formats.py the formats."""
    (text,) = [text for text in PAGES.values() if f"<!-- {name} -->\n" in text]
    table = text.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0]
    assert table.strip("\n") == TABLES[name]().strip("\n")


def test_nothing_is_excused_without_need():
    lines = [line for text in PAGES.values() for line in (*commands(text), *blocks(text, "python"))]
    assert [part for part in NOT_RUN if not any(part in line for line in lines)] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Relative links name files of the repository, and headings of their pages."""
    for target, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", PAGES[page]):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.is_file(), f"{page} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in anchors, f"{page} links to the heading {heading} of {path.name}"


def test_the_map_of_rooms_names_files_and_folders_that_exist():
    """Paths of the page for developers are relative to the repository or to the package."""
    paths = set(re.findall(r"`([\w./]+(?:\.py|\.yaml|/))`", PAGES["tests/README.md"]))
    assert len(paths) > 60
    written_by_a_run = {"data.yaml"}
    roots = (ROOT, ROOT / "bitfalcon_plugin")
    assert [path for path in paths - written_by_a_run if not any((root / path).exists() for root in roots)] == []


def test_the_first_page_is_read_to_its_end():
    assert len(PAGES["README.md"].splitlines()) <= 250
