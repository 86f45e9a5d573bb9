"""Formats of phones and small boards: what every one of them does, where its packages are installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.export.formats import EXPORT_FORMATS, WRITABLE_FORMATS
from bitfalcon_plugin.export.network import ExportedNetwork
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.run import run_export
from tests.helpers.exports import (
    is_here,
    made,
    marked,
    needs_onnx,
    save,
    tiny,
    tiny_classify,
    tiny_obb,
    tiny_pose,
    tiny_segment,
)
from tests.helpers.paths import ROOT
from tests.helpers.tiny_dataset import write_yaml

DEPLOYED = [marked(name) for name in WRITABLE_FORMATS if EXPORT_FORMATS[name].static]
ATTENTION = [(-1, 1, "A2C2f", [64, True, area]) for area in (1, 4)]  # of one and of several areas
NETWORKS = {"detect": lambda: tiny(*ATTENTION), "segment": tiny_segment, "classify": tiny_classify}
NETWORKS |= {"pose": tiny_pose, "obb": tiny_obb}
SIZE = (40, 64)  # its 80 positions at stride 4 are not whole rows of areas


def path_of(folder: Path, format_: str) -> str:
    return str(folder / f"x{EXPORT_FORMATS[format_].suffix}")


@pytest.mark.parametrize("network", NETWORKS)
@torch.inference_mode()
def test_the_static_network_gives_the_numbers_of_the_network(network):
    model = NETWORKS[network]().eval().requires_grad_(False).fuse()
    images = torch.rand(2, 3, *SIZE)
    anyone, static = ExportedNetwork(model), ExportedNetwork(model, size=SIZE)
    for one, other in zip(*(outputs if isinstance(outputs, tuple) else (outputs,) for outputs in
                            (anyone(images), static(images)))):  # fmt: skip
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_static_network_has_numbers_for_sizes_and_no_strided_slices(network):
    """Read from the operations that torch.export records, which is not the way in which a file is written."""
    static = ExportedNetwork(NETWORKS[network]().eval().requires_grad_(False).fuse(), size=SIZE)
    program = torch.export.export(static, (torch.rand(1, 3, *SIZE),), strict=False)
    for node in program.graph.nodes:
        name = str(node.target)
        assert "sym_size" not in name and "cumsum" not in name
        if name == "aten.slice.Tensor":
            assert len(node.args) < 5 or node.args[4] == 1
        if name == "aten.cat.default" and len(node.args[0][0].meta["val"].shape) > 2:
            assert len(node.args) > 1 and node.args[1] != 0


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("format_", DEPLOYED)
def test_a_file_gives_what_the_network_gives(tmp_path, capfd, format_, network):
    model = NETWORKS[network]()
    weights = YOLO(save(model, tmp_path / "best.pt"))
    path = weights.export(format=format_, imgsz=list(SIZE), out=path_of(tmp_path, format_))
    told = capfd.readouterr()
    assert [line.split()[0] for line in told.out.splitlines()] == ["wrote", "compared", "next:"] and not told.err
    engine = open_exported(path, "cpu")
    assert (engine.task, engine.fixed, engine.names) == (network, SIZE, model.names) and format_ == engine.format
    assert not any(capfd.readouterr()) and "threads" in engine.how
    images, reference = torch.rand(3, 3, *SIZE), model.eval()
    with torch.inference_mode():
        raw = reference(images)
        torch.testing.assert_close(engine.decode(engine(images)), reference.decode(raw), rtol=1e-3, atol=2e-3)
        if network == "segment":
            torch.testing.assert_close(engine(images)["prototypes"], raw["prototypes"], rtol=1e-3, atol=1e-3)
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(("best.pt", Path(path).name))


@pytest.mark.parametrize("format_", DEPLOYED)
def test_predict_and_val_of_a_file_are_those_of_the_checkpoint(tmp_path, monkeypatch, format_):
    monkeypatch.chdir(tmp_path)
    model = tiny()
    with torch.no_grad():
        model.head.cv3[0][-1].weight.normal_(std=0.5)
        model.head.cv3[0][-1].bias.fill_(-0.5)
    weights = YOLO(save(model, tmp_path / "best.pt", settings={"imgsz": 64}))
    exported = YOLO(weights.export(format=format_, out=path_of(tmp_path, format_)))
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    options = {"imgsz": 64, "rect": False, "conf": 0.3, "verbose": False}
    for index, size in enumerate(((48, 64), (64, 40))):
        picture = np.random.RandomState(index).randint(0, 255, (*size, 3), np.uint8)
        Image.fromarray(picture).save(f"images/{index}.png")
        (one,), (other,) = (model.predict(f"images/{index}.png", **options) for model in (weights, exported))
        torch.testing.assert_close(other.boxes.data, one.boxes.data, rtol=0, atol=1e-2)
        assert len(one) > 3
        rows = [f"{int(box.cls)} " + " ".join(map(str, box.xywhn[0].tolist())) for box in one.boxes]
        Path(f"labels/{index}.txt").write_text("\n".join(rows))
    write_yaml(tmp_path / "data.yaml", {"train": "images", "val": "images", "names": ["a", "b"]})
    options = {
        "data": str(tmp_path / "data.yaml"),
        "imgsz": 64,
        "workers": 0,
        "plots": False,
        "batch": 2,
        "rect": False,
    }
    expected, metrics = (model.val(**options) for model in (weights, exported))
    assert expected.fitness > 0.1
    assert metrics.results_dict == pytest.approx(expected.results_dict, abs=1e-3)


@pytest.mark.parametrize("format_", DEPLOYED)
def test_half_precision_is_smaller_and_near(tmp_path, format_):
    if "half" not in EXPORT_FORMATS[format_].options:
        pytest.skip(f"{format_} takes no half=True")
    weights = YOLO(save(tiny(), tmp_path / "best.pt"))
    whole, half = (
        weights.export(format=format_, imgsz=64, half=half, out=path_of(tmp_path / str(half), format_))
        for half in (False, True)
    )
    assert size_of(half) < 0.85 * size_of(whole)  # metadata and constants are not halved
    images = torch.rand(1, 3, 64, 64)
    one, other = (open_exported(path, "cpu")(images) for path in (whole, half))
    assert other.dtype == torch.float32 and 0 < (one - other).abs().max() < 0.5


def size_of(path: str) -> int:
    found = Path(path)
    return sum(item.stat().st_size for item in found.rglob("*") if item.is_file()) or found.stat().st_size


@pytest.mark.parametrize("format_", DEPLOYED)
@pytest.mark.parametrize("content", [b"", b"no model at all", bytes(range(256)) * 40])
def test_a_damaged_file_is_one_line(tmp_path, capfd, format_, content):
    path = Path(path_of(tmp_path, format_))
    if EXPORT_FORMATS[format_].is_folder:
        weights = YOLO(save(tiny(), tmp_path / "best.pt"))
        weights.export(format=format_, imgsz=64, out=str(path))
        for file in path.iterdir():
            file.write_bytes(content)
    else:
        path.write_bytes(content)
    capfd.readouterr()
    with pytest.raises(UserError, match=f"{path.name}' cannot be read as") as raised:
        open_exported(path, "cpu")
    assert "\n" not in str(raised.value) and "built-in" not in str(raised.value) and not any(capfd.readouterr())


ASKED = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")


def test_no_network_address_is_opened_while_exporting(tmp_path):
    """In a process of its own, because an audit hook stays; what other processes it starts is looked at, too."""
    rows = {name: EXPORT_FORMATS[name] for name in WRITABLE_FORMATS}
    installed = {
        name: row.is_run_here
        for name, row in rows.items()
        if all(map(importlib.util.find_spec, (*row.needs, *row.to_write)))
    }
    save(tiny(), tmp_path / "best.pt")
    script = f"""
        import sys
        asked, started = [], []
        def hook(event, values):
            if event in {ASKED}:
                asked.append((event, str(values)))
            if event in ("subprocess.Popen", "os.system", "os.posix_spawn"):
                started.append(str(values[0]))
        sys.addaudithook(hook)
        from bitfalcon_plugin import YOLO
        for name, is_run_here in {installed}.items():
            path = YOLO("best.pt").export(format=name, imgsz=64, unchecked=not is_run_here)
            if is_run_here:
                YOLO(path).predict("a.png", verbose=False, imgsz=64)
            words = [word for word in started if "pip" in word or "curl" in word or "wget" in word]
            print("ASKED", name, asked, words)
    """
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    asked = [line for line in done.stdout.splitlines() if line.startswith("ASKED")]
    assert asked == [f"ASKED {name} [] []" for name in installed] and len(asked) > 1


def test_the_audit_hook_sees_a_connection(tmp_path):
    """The events of ASKED are those of a connection, so that the test above can fail."""
    code = (
        "import socket, sys; asked = []\n"
        f"sys.addaudithook(lambda event, _: asked.append(event) if event in {ASKED} else None)\n"
        "try: socket.create_connection(('127.0.0.1', 9), 0.1)\nexcept OSError: pass\nprint(asked)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "socket.connect" in done.stdout


@needs_onnx
def test_mnn_never_runs_its_command(tmp_path):
    """The command mnnconvert (MNN.tools) installs packages and reports what it converted."""
    if not is_here("mnn"):
        pytest.skip("needs MNN")
    YOLO(save(tiny(), tmp_path / "best.pt")).export(format="mnn", imgsz=64)
    assert not [name for name in sys.modules if name.startswith("MNN.tools")]


def test_mnn_convolves_as_exactly_as_others(tmp_path):
    """MNN's own choice of tiles for 3x3 convolutions gives 1e-3 of the values as error."""
    if not is_here("mnn"):
        pytest.skip("needs MNN")
    torch.manual_seed(0)
    model = tiny(*[(-1, 1, "Conv", [64, 3, 1])] * 4)
    path = run_export(model, made(format="mnn", imgsz=160, out=path_of(tmp_path, "mnn")), "small.yaml").path
    images = torch.rand(1, 3, 160, 160)
    with torch.inference_mode():
        expected = model.eval().decode(model(images))
    torch.testing.assert_close(open_exported(path, "cpu")(images), expected, rtol=1e-4, atol=2e-4)
