"""Scripts as tutorials have them, unchanged, run by `bitfalcon run` in a folder with weights, a dataset and pictures.

tests/helpers/script_checks.py says what each must have done.
"""

from __future__ import annotations

import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers.paths import ROOT, TESTS
from tests.helpers.running import restored, run_script
from tests.helpers.shapes import HEIGHT, WIDTH, lay_out

pytest.register_assert_rewrite("tests.helpers.script_checks")
from tests.helpers import script_checks  # noqa: E402

SCRIPTS = {path.stem: path for path in sorted((TESTS / "scripts").glob("*.py")) if path.stem != "typed_client"}
FIRST = "train_and_plot"  # makes best.pt
# Packages without which a script cannot run; it is skipped where one is missing.
NEEDS = {
    "count_unique_objects": ("trackers",),
    "dataframe_json": ("pandas",),
    "fastapi_service": ("fastapi", "httpx"),
    "flask_service": ("flask",),
    "heatmap_and_regions": ("supervision", "trackers", "cv2"),
    "line_counter_supervision": ("supervision", "trackers", "cv2"),
    "object_counter": ("supervision", "trackers", "cv2"),
    "sahi_slicing": ("sahi",),
    "track_history": ("trackers", "cv2"),
    "tuning": ("optuna",),
    "zones_supervision": ("supervision",),
}
# Packages that a module of tests/helpers/stubs takes the place of.
STUBBED = {
    "annotator": ("cv2",),
    "draw_boxes_opencv": ("cv2",),
    "gradio_app": ("gradio",),
    "old_imports": ("cv2",),
    "streamlit_page": ("streamlit",),
    "video_to_its_end": ("cv2",),
    "webcam_loop": ("cv2",),
}
EDITED = ("annotator", "box_arithmetic", "old_imports", "other_models_beside")  # by changing their imports only
IN_A_PROCESS = ("multiprocess_predict",)  # it starts workers, which read the command line of their parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple:
    """The folder in which train_and_plot.py has run, and to which it has left best.pt; what run_script returns."""
    folder = tmp_path_factory.mktemp("scripts")
    lay_out(folder)
    done = run_script(SCRIPTS[FIRST], folder)
    assert done[0] == 0, done[3]
    shutil.copy(folder / "runs/detect/shapes/weights/best.pt", folder / "best.pt")
    return folder, done


@pytest.fixture()
def here(trained, tmp_path, monkeypatch) -> Path:
    """A copy of the folder, without what the script wrote but best.pt."""
    folder = tmp_path / "here"
    shutil.copytree(trained[0], folder, ignore=shutil.ignore_patterns("runs", "results*.jpg", "*.cache"))
    monkeypatch.setenv("BITFALCON_CONFIG", str(tmp_path / "settings"))
    return folder


def test_train_and_plot(trained):
    folder, (_, left, output, _) = trained
    script_checks.train_and_plot(left, output, folder)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in (FIRST, *IN_A_PROCESS)])
def test_script(name, here):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"{package} is not installed")
    if "cv2" in NEEDS.get(name, ()):
        write_clip(here)
    stand_ins = [importlib.import_module(f"tests.helpers.stubs.{package}") for package in STUBBED.get(name, ())]
    for module in stand_ins:
        module.LOG.clear()
    code, left, output, errors = run_script(SCRIPTS[name], here, stand_ins=stand_ins)
    assert code == 0, errors
    getattr(script_checks, name)(left, output, here)


@pytest.mark.parametrize("name", EDITED)
def test_script_with_changed_imports(name, here, monkeypatch, capsys):
    """`ultralytics` is `bitfalcon_plugin.dropin` in every import, and Python runs the script."""
    text = re.sub(r"^(import|from) ultralytics\b", r"\1 bitfalcon_plugin.dropin", SCRIPTS[name].read_text(), flags=re.M)
    (here / "edited.py").write_text(text)
    with restored(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(sys, "argv", ["edited.py"])
        for package in STUBBED.get(name, ()):
            patch.setitem(sys.modules, package, importlib.import_module(f"tests.helpers.stubs.{package}"))
        left = SimpleNamespace(**runpy.run_path("edited.py", run_name="__main__"))
    getattr(script_checks, name)(left, capsys.readouterr().out, here)


def write_clip(folder: Path) -> None:
    """Write the pictures of frames/ as clip.mp4."""
    import cv2

    writer = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (WIDTH, HEIGHT))
    for path in sorted((folder / "frames").glob("*.png")):
        writer.write(cv2.imread(str(path)))
    writer.release()


@pytest.mark.parametrize("name", IN_A_PROCESS)
def test_script_in_a_process_of_its_own(name, here):
    command = [sys.executable, "-m", "bitfalcon_plugin", "run", str(SCRIPTS[name])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    getattr(script_checks, name)(None, done.stdout, here)


def test_every_script_has_a_check_and_is_long_enough_for_its_kind():
    assert len(SCRIPTS) >= 50 and {*NEEDS, *STUBBED, *IN_A_PROCESS} <= {*SCRIPTS}
    assert [name for name in SCRIPTS if not callable(getattr(script_checks, name, None))] == []


@pytest.mark.parametrize("path", SCRIPTS.values(), ids=lambda path: path.stem)
def test_scripts_know_nothing_of_this_package(path):
    text = path.read_text()
    assert "bitfalcon" not in text and ("import ultralytics" in text or "from ultralytics" in text or "sahi" in text)


@pytest.mark.parametrize("path", sorted((TESTS / "bench").glob("*.py")), ids=lambda path: path.stem)
def test_measurements_import_names_that_exist(path, monkeypatch):
    """Nothing is measured: measurements are run by hand."""
    monkeypatch.chdir(TESTS.parent)
    runpy.run_path(str(path), run_name="imported")
