"""Files, checks, downloads, images and events of dropin.utils, as scripts call them."""

from __future__ import annotations

import os
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin.utils import autobatch, benchmarks, callbacks, checks, dist, downloads, files, patches
from bitfalcon_plugin.dropin.utils.errors import HUBModelError
from bitfalcon_plugin.dropin.utils.tuner import run_ray_tune
from tests.helpers.paths import ROOT


def test_names_that_are_taken_get_a_number(tmp_path):
    run = tmp_path / "exp"
    assert files.increment_path(run) == run
    run.mkdir()
    assert files.increment_path(run) == tmp_path / "exp2" and files.increment_path(run, sep="-") == tmp_path / "exp-2"
    assert files.increment_path(run, exist_ok=True) == run
    assert files.increment_path(run, mkdir=True).is_dir() and files.increment_path(run) == tmp_path / "exp3"
    (tmp_path / "im.jpg").write_text("")
    assert files.increment_path(tmp_path / "im.jpg") == tmp_path / "im2.jpg"
    (tmp_path / "v1.0").mkdir()
    assert files.increment_path(tmp_path / "v1.0") == tmp_path / "v1.02"


def test_files(tmp_path, monkeypatch):
    assert files.get_latest_run(tmp_path) == ""
    for index, name in enumerate(("a/last.pt", "b/last2.pt")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(bytes(2**20))
        os.utime(tmp_path / name, (index, index))
    assert files.get_latest_run(tmp_path) == str(tmp_path / "b/last2.pt")
    assert files.file_size(tmp_path / "a/last.pt") == 1.0 and files.file_size(tmp_path) == 2.0
    assert files.file_size(tmp_path / "none") == 0.0 and files.file_age(tmp_path / "a/last.pt") > 1000
    assert files.file_date(tmp_path / "a/last.pt").startswith(("1970-1-1", "1969-12-31"))
    before = Path.cwd()
    with files.WorkingDirectory(tmp_path):
        assert Path.cwd() == tmp_path.resolve()
    assert Path.cwd() == before
    spaced = tmp_path / "my file.txt"
    spaced.write_text("old")
    with files.spaces_in_path(spaced) as path:
        assert " " not in Path(path).name
        Path(path).write_text("new")
    assert spaced.read_text() == "new"


@pytest.mark.parametrize(
    "given, options, expected",
    [
        (640, {}, 640),
        (641, {}, 672),
        ([320, 333], {}, [320, 352]),
        ((640,), {}, 640),
        ("640", {}, 640),
        ("[320,640]", {}, [320, 640]),
        (640, {"min_dim": 2}, [640, 640]),
        ([320, 640], {"max_dim": 1}, 640),
        (16, {"floor": 64}, 64),
        (100, {"stride": torch.tensor([8.0, 16, 64])}, 128),
    ],
)
def test_sizes(given, options, expected):
    assert checks.check_imgsz(given, **options) == expected


def test_wrong_sizes(capsys):
    for wrong in (None, "big", 640.5, {}):
        with pytest.raises(TypeError, match="imgsz"):
            checks.check_imgsz(wrong)
    with pytest.raises(ValueError, match="3 sides"):
        checks.check_imgsz([1, 2, 3])
    checks.check_imgsz(641)
    assert "no multiple of stride 32" in capsys.readouterr().out


def test_versions():
    assert checks.check_version("1.2.3", ">=1.2,<2") and not checks.check_version("1.2.3", "<1.2.3")
    assert (
        checks.check_version("2.0", "1.9")
        and checks.check_version("1.10.0", ">1.9")
        and checks.check_version("1.0", "==1")
    )
    assert checks.check_version("1.4.2", "~=1.4") and not checks.check_version("2.0", "~=1.4")
    assert checks.check_version("torch", ">=2.0") and not checks.check_version("no-such-package", ">=1")
    with pytest.raises(ModuleNotFoundError, match="no-such-package"):
        checks.check_version("no-such-package", ">=1", hard=True)
    with pytest.raises(ModuleNotFoundError, match="torch>=99"):
        checks.check_version("torch", ">=99", hard=True)
    assert checks.parse_version("2.0.1+cpu") == (2, 0, 1) and checks.check_python("3.8")


def test_requirements_are_looked_at_and_never_installed(tmp_path, capsys):
    assert checks.check_requirements("torch>=2.0") and checks.check_requirements(
        ["numpy", ("no-such-package", "torch")]
    )
    assert not checks.check_requirements(["torch", "no-such-package>=1"])
    assert "pip install 'no-such-package>=1'" in capsys.readouterr().out
    assert checks.check_requirements("no-such-package", exclude=("no-such-package",))
    file = tmp_path / "requirements.txt"
    file.write_text("# comment\nnumpy>=1.20  # here\ntorch\n\n-r other.txt\n")
    assert [(item.name, item.specifier) for item in checks.parse_requirements(file)] == [
        ("numpy", ">=1.20"),
        ("torch", ""),
    ]
    assert checks.check_requirements(file)


def test_names_of_files(tmp_path):
    assert checks.check_file("") == "" and checks.check_file(str(ROOT / "README.md")) == str(ROOT / "README.md")
    assert Path(checks.check_file("default.yaml")).is_file() and Path(checks.check_yaml("yolov12n.yaml")).is_file()
    assert checks.check_file("rtsp://host/stream") == "rtsp://host/stream"
    assert checks.check_file("none.yaml", hard=False) == []
    for missing in ("none.pt", "https://example.org/a.jpg"):
        with pytest.raises(FileNotFoundError):
            checks.check_file(missing)
    checks.check_suffix("a.pt", (".pt", ".pth"))
    with pytest.raises(AssertionError, match=".jpg"):
        checks.check_suffix(["a.pt", "b.jpg"], ".pt")
    assert str(checks.check_model_file_from_stem("yolov12n")) == "yolov12n.pt"
    assert checks.check_is_path_safe(ROOT, ROOT / "README.md") and not checks.check_is_path_safe(tmp_path, ROOT)
    assert checks.is_ascii("abc") and not checks.is_ascii("é")


def test_checks_print_two_lines(capsys):
    assert checks.check_yolo() is None and checks.checks is checks.check_yolo
    banner, setup = capsys.readouterr().out.splitlines()
    assert "Python-" in banner and "torch-" in banner and setup.startswith("Setup complete (") and "CPUs" in setup
    info = checks.collect_system_info()
    assert info["CPU count"] == os.cpu_count() and checks.cuda_is_available() == (checks.cuda_device_count() > 0)
    assert checks.check_amp(torch.nn.Linear(1, 1)) is False and checks.check_torchvision() is None
    assert checks.check_pip_update_available() is False


def test_arguments_are_printed(capsys):
    def run(a, b=2):
        checks.print_args(show_file=False, show_func=True)

    run(1)
    checks.print_args({"x": 3})
    first, second = capsys.readouterr().out.splitlines()
    assert "run: " in first and first.endswith("a=1, b=2") and second.endswith("x=3")


def test_nothing_is_downloaded(tmp_path):
    url = "https://example.org/data/images.zip"
    for call in (
        lambda: downloads.download(url, dir=tmp_path),
        lambda: downloads.safe_download(url, dir=tmp_path),
        lambda: downloads.download([url, "https://example.org/b.pt"], dir=tmp_path, threads=3),
    ):
        with pytest.raises(FileNotFoundError, match=f"{url} to {tmp_path}"):
            call()
    with pytest.raises(FileNotFoundError, match="yolo12n.pt"):
        downloads.attempt_download_asset("yolo12n.pt")
    with pytest.raises(UserError):
        downloads.get_github_assets()
    (tmp_path / "best.pt").write_text("")
    assert downloads.attempt_download_asset(str(tmp_path / "best.pt")) == str(tmp_path / "best.pt")
    downloads.download("https://example.org/best.pt", dir=tmp_path)
    assert downloads.safe_download("https://example.org/best.pt", dir=tmp_path) == tmp_path / "best.pt"
    assert downloads.is_url(url) and not downloads.is_url("images.zip") and not downloads.is_url(url, check=True)
    assert "yolo12n" in downloads.GITHUB_ASSETS_STEMS and downloads.check_disk_space()


def test_archives(tmp_path):
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.txt").write_text("a")
    (folder / ".DS_Store").write_text("x")
    archive = downloads.zip_directory(folder)
    with zipfile.ZipFile(archive) as opened:
        assert opened.namelist() == ["images/a.txt"]
    target = tmp_path / "out"
    assert downloads.unzip_file(archive, target) == target / "images" and (target / "images/a.txt").read_text() == "a"
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        bad.writestr("../evil.txt", "x")
    with pytest.raises(UserError, match="outside"):
        downloads.unzip_file(tmp_path / "bad.zip")
    with pytest.raises(zipfile.BadZipFile):
        downloads.unzip_file(tmp_path / "none.zip")


def test_images_of_any_path(tmp_path, monkeypatch, capsys):
    image = np.zeros((20, 30, 3), np.uint8)
    image[..., 0] = 250  # blue
    path = tmp_path / "bücher 1.png"
    assert patches.imwrite(path, image) and Image.open(path).getpixel((0, 0)) == (0, 0, 250)
    assert np.array_equal(patches.imread(path), image) and patches.imread(path, 0).shape == (20, 30, 1)
    assert patches.imread(tmp_path / "none.png") is None and not patches.imwrite(tmp_path / "a.nothing", image)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    patches.imshow("window", image)
    assert "window.jpg" in capsys.readouterr().err


def test_images_are_those_of_opencv(tmp_path):
    cv2 = pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, 255, (31, 17, 3), np.uint8)
    patches.imwrite(tmp_path / "a.png", noise)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png")), noise)
    assert np.array_equal(patches.imread(tmp_path / "a.png"), noise)


def test_tensors_are_saved_and_loaded(tmp_path):
    patches.torch_save({"a": torch.ones(2)}, tmp_path / "a.pt")
    assert torch.equal(patches.torch_load(tmp_path / "a.pt", weights_only=False)["a"], torch.ones(2))
    torch.save(torch.nn.Linear(1, 1), tmp_path / "b.pt")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        patches.torch_load(tmp_path / "b.pt", weights_only=False)


def test_events():
    functions = callbacks.get_default_callbacks()
    assert isinstance(functions, defaultdict) and len(functions) == 25 and functions["on_train_start"] == []
    functions["on_train_start"].append(print)
    assert callbacks.default_callbacks["on_train_start"] == [] and functions["anything"] == []
    assert callbacks.add_integration_callbacks(object()) is None


def test_what_refuses():
    for call in (dist.generate_ddp_command, dist.find_free_network_port):
        with pytest.raises(UserError, match="device=0,1"):
            call()
    with pytest.raises(UserError, match="Optuna"):
        run_ray_tune(None)
    with pytest.raises(UserError, match="benchmark"):
        benchmarks.ProfileModels([])
    assert "fetched" in str(HUBModelError())


def test_batches_are_looked_for_on_gpus(capsys):
    assert autobatch.autobatch(torch.nn.Linear(1, 1), batch_size=12) == 12
    assert autobatch.check_train_batch_size(torch.nn.Linear(1, 1)) == 16
    assert "using 16" in capsys.readouterr().out


def test_rows_of_a_benchmark():
    from bitfalcon_plugin.benchmark.report import Bench, EngineRecord
    from bitfalcon_plugin.benchmark.timing import Timing

    records = (
        EngineRecord("torch", "float32", bytes=5_000_000, numbers={"AP": 0.5}, latency=Timing((10.0, 20.0, 30.0))),
        EngineRecord("onnx", "float32", reason="not installed"),
    )
    bench = Bench("m", "d", (64, 64), 2, "cpu", 3, "torch", "noise", records, {})
    assert benchmarks.rows_of(bench) == [
        ("torch", "ok", 5.0, 0.5, 10.0, 100.0),
        ("onnx", "failed", None, None, None, None),
    ]
    assert [row[0] for row in benchmarks.rows_of(bench, "onnx")] == ["onnx"]
