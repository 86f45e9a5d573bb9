"""engine=: the network is exported once, kept, checked, and computes in the place of torch."""

from __future__ import annotations

import copy
import importlib.metadata
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.files import cache_dir
from bitfalcon_plugin.export import kept_export, seal
from bitfalcon_plugin.export.compare import MismatchError
from tests.helpers.coloured import GRAPH
from tests.helpers.exports import needs_onnx, needs_openvino, save, tiny_segment
from tests.helpers.tiny_dataset import write_yaml

PREDICT = {"imgsz": 64, "conf": 0.3, "verbose": False, "device": "cpu"}
SUFFIXES = {"onnx": "network.onnx", "openvino": "network_openvino_model/network.bin"}
both = pytest.mark.parametrize(
    "word", [pytest.param("onnx", marks=needs_onnx), pytest.param("openvino", marks=needs_openvino)]
)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A folder with best.pt, two oblong images and their labels; the cache lies in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    save(tiny_segment(), tmp_path / "best.pt", settings={"imgsz": 64})
    random = np.random.RandomState(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for index in range(2):
        Image.fromarray(random.randint(0, 255, (40, 64, 3), np.uint8)).save(tmp_path / f"images/{index}.png")
    return tmp_path


@pytest.fixture
def exported(monkeypatch) -> list[str]:
    """The formats that were exported, one entry each time."""
    formats, write = [], kept_export.write_checked

    def note_and_write(network, settings, *arguments, **options):
        formats.append(settings.format)
        return write(network, settings, *arguments, **options)

    monkeypatch.setattr(kept_export, "write_checked", note_and_write)
    return formats


def predicted(yolo: YOLO, **settings) -> list:
    return yolo.predict("images", **PREDICT, **settings)


def assert_same(expected, results) -> None:
    assert sum(map(len, expected)) > 4
    for one, other in zip(expected, results, strict=True):
        assert one.input_shape == other.input_shape == (40, 64)
        torch.testing.assert_close(other.boxes.data, one.boxes.data, rtol=0, atol=1e-3)
        torch.testing.assert_close(other.masks.data, one.masks.data)


@both
def test_another_program_computes_the_same_and_is_exported_once(home, exported, word, capsys):
    yolo = YOLO("best.pt")
    assert_same(predicted(yolo), predicted(yolo, engine=word))
    assert_same(predicted(yolo), predicted(yolo, engine=word))
    assert_same(predicted(yolo), predicted(YOLO("best.pt"), engine=word))
    assert exported == [word]
    out, err = capsys.readouterr()
    assert err.count("the network is exported to") == 1 and "compared with the network: largest difference" in err
    assert "wrote" not in out  # of the verb export


@both
@pytest.mark.parametrize("damage", ["byte", "half", "gone", "seal"])
def test_a_damaged_file_is_written_again(home, exported, word, damage):
    expected = predicted(YOLO("best.pt"), engine=word)
    (path,) = cache_dir().glob(f"engines/*/{SUFFIXES[word]}")
    content = path.read_bytes()
    if damage == "byte":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "half":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        path.unlink()
    else:
        next(cache_dir().glob("seals/*")).unlink()
        seal._SEALED.clear()
    assert_same(expected, predicted(YOLO("best.pt"), engine=word))
    assert exported == [word] * 2


@needs_onnx
def test_changed_weights_are_exported_anew(home, exported):
    yolo = YOLO("best.pt")
    before = predicted(yolo, engine="onnx")
    with torch.no_grad():
        yolo.model.model[0].conv.weight.mul_(1.5)
    assert_same(predicted(yolo), predicted(yolo, engine="onnx"))
    assert not torch.equal(predicted(yolo, engine="onnx")[0].boxes.data, before[0].boxes.data)
    assert exported == ["onnx"] * 2


@needs_onnx
@pytest.mark.parametrize("change", ["load", "fuse", "a script"])
def test_an_engine_follows_every_change_of_the_weights(home, change):
    yolo, other = YOLO("best.pt"), tiny_segment()
    predicted(yolo, engine="onnx")
    with torch.no_grad():
        other.model[0].conv.weight.mul_(1.5)
    save(other, home / "other.pt", settings={"imgsz": 64})
    if change == "load":
        yolo.load("other.pt")
    elif change == "fuse":
        yolo.fuse()
    else:
        yolo.model.model[0].conv.weight.data.mul_(1.5)
    expected = YOLO("best.pt") if change == "fuse" else YOLO("other.pt")
    assert_same(predicted(expected), predicted(yolo, engine="onnx"))


@needs_onnx
def test_copies_names_and_val(home):
    yolo = YOLO("best.pt")
    for result in predicted(yolo):
        result.save_txt(f"labels/{Path(result.path).stem}.txt")
    write_yaml(home / "data.yaml", {"train": "images", "val": "images", "names": ["a", "b"]})
    options = {"data": "data.yaml", "imgsz": 64, "plots": False, "verbose": False, "device": "cpu"}
    plain, other = yolo.val(**options), yolo.val(**options, engine="onnx")
    assert plain.box.map > 0.01
    assert other.results_dict == pytest.approx(plain.results_dict, abs=2e-3)
    twin = copy.deepcopy(yolo)
    twin.model.names[0] = "renamed"
    assert predicted(twin, engine="onnx")[0].names[0] == "renamed"
    assert predicted(yolo, engine="onnx")[0].names[0] == "a"


def test_auto_is_torch_where_openvino_is_missing_and_says_so_once(home, exported, monkeypatch, capsys):
    monkeypatch.setattr(kept_export, "find_spec", lambda name: None)
    yolo = YOLO("best.pt")
    for _ in range(2):
        assert_same(predicted(yolo), predicted(yolo, engine="auto"))
    assert exported == []
    told = capsys.readouterr().err
    assert told.count("engine=auto: torch computes, because openvino and onnx cannot be found: pip install") == 1


@needs_onnx
def test_the_cache_may_go_at_any_time(home, exported):
    yolo = YOLO("best.pt")
    expected = predicted(yolo, engine="onnx")
    shutil.rmtree(cache_dir())
    assert_same(expected, predicted(yolo, engine="onnx"))  # it is open
    assert_same(expected, predicted(yolo, engine="onnx", half=True))  # it is opened again
    assert exported == ["onnx"] * 2


@both
def test_two_that_export_the_same_network_at_once_leave_each_other_alone(home, monkeypatch, word):
    """The second one begins while the first one writes, as another process may: both get a whole file."""
    write, nested, others = kept_export.write_checked, [], []

    def write_twice(network, settings, target, *arguments, **options):
        if not nested:
            nested.append(target)
            target.parent.joinpath("half").write_text("written")
            others.append(kept_export.kept_export(network, "other.pt", word))
        return write(network, settings, target, *arguments, **options)

    monkeypatch.setattr(kept_export, "write_checked", write_twice)
    network = YOLO("best.pt")._network
    one = kept_export.kept_export(network, "best.pt", word)
    assert seal.is_sealed(one) and seal.is_sealed(others[0]) and one != others[0]
    assert sorted(path.name for path in one.parents[1].iterdir()) == sorted((one.parent.name, others[0].parent.name))


@needs_onnx
def test_threads_that_share_an_object_export_once(home, exported):
    yolo, results = YOLO("best.pt"), []
    expected = predicted(yolo)
    workers = [threading.Thread(target=lambda: results.append(predicted(yolo, engine="onnx"))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 3 and exported == ["onnx"]
    for result in results:
        assert_same(expected, result)


@needs_onnx
@pytest.mark.parametrize("place", ["cache", "cache/engines"])
def test_a_cache_that_cannot_be_written_is_named_with_the_variable_to_set(home, place):
    (home / place).parent.mkdir(exist_ok=True)
    (home / place).write_text("a file in the place of the folder")
    with pytest.raises(UserError, match="cannot be kept in '.*engines': .*BITFALCON_CACHE") as raised:
        predicted(YOLO("best.pt"), engine="onnx")
    assert "out=" not in str(raised.value)


@needs_onnx
def test_a_cache_that_somebody_else_has_filled_may_be_read(home, exported, monkeypatch):
    expected = predicted(YOLO("best.pt"), engine="onnx")

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(kept_export.os, "utime", refuse)
    assert_same(expected, predicted(YOLO("best.pt"), engine="onnx"))
    assert exported == ["onnx"]


@needs_onnx
def test_a_program_that_is_installed_by_another_name_has_a_version(home, monkeypatch):
    version = importlib.metadata.version

    def of_the_gpu_build(name):
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(kept_export.metadata, "version", of_the_gpu_build)
    assert_same(predicted(YOLO("best.pt")), predicted(YOLO("best.pt"), engine="onnx"))


@needs_openvino
def test_auto_is_openvino_and_says_so_once(home, exported, capsys):
    yolo = YOLO("best.pt")
    for _ in range(2):
        assert_same(predicted(yolo), predicted(yolo, engine="auto"))
    assert capsys.readouterr().err.count("engine=auto: OpenVINO") == 1
    assert len(yolo.embed("images", imgsz=64, engine="auto", verbose=False)) == 2  # of the network, by torch
    assert exported == ["openvino"]


@needs_openvino
def test_auto_goes_on_with_torch_where_the_file_differs(home, monkeypatch, capsys):
    def differ(*arguments, **options):
        raise MismatchError("12 px apart")

    monkeypatch.setattr(kept_export, "write_checked", differ)
    yolo = YOLO("best.pt")
    assert_same(predicted(yolo), predicted(yolo, engine="auto"))
    assert "engine=auto: torch computes. 12 px apart" in capsys.readouterr().err
    with pytest.raises(MismatchError):
        predicted(yolo, engine="openvino")


@needs_onnx
@pytest.mark.parametrize(
    "settings, words",
    [({"embed": [0]}, "engine=onnx: embed=(0,) looks into rows of the network"), ({"engine": "tensorrt"}, "engine")],
)
def test_what_an_engine_cannot_do(home, settings, words):
    with pytest.raises(UserError) as error:
        predicted(YOLO("best.pt"), **{"engine": "onnx", **settings})
    assert words in str(error.value)


@both
def test_sixteen_bits_that_are_not_computed_are_told(home, word, capsys):
    yolo = YOLO("best.pt")
    predicted(yolo, engine=word, half=True)
    told = capsys.readouterr().err
    in_float32 = word == "onnx" or "f32" in yolo._engine._exported.runtime.runtime
    assert ("half=True: " in told and "in float32" in told) == in_float32
    assert "export it" not in told and "network.onnx" not in told


@needs_openvino
def test_hooks_of_a_script_are_called(home, exported, capsys):
    yolo, seen = YOLO("best.pt"), []
    yolo.model.model[0].register_forward_hook(lambda *_: seen.append(1))
    predicted(yolo, engine="auto")
    assert seen and not exported and "engine=auto: torch computes, because functions" in capsys.readouterr().err
    with pytest.raises(UserError, match="engine=openvino would not call the functions .* engine=torch"):
        predicted(yolo, engine="openvino")


@needs_onnx
def test_random_weights_of_a_graph_are_told(home, capsys):
    Path("small.yaml").write_text(GRAPH)
    YOLO("small.yaml").predict("images", engine="onnx", **PREDICT)
    assert "small.yaml is a graph, its weights are random" in capsys.readouterr().err


def test_a_missing_program_is_named(home, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="engine=openvino needs the package openvino: pip install"):
        predicted(YOLO("best.pt"), engine="openvino")


@needs_onnx
def test_an_exported_model_is_run_by_its_own_program(home, capsys):
    path = YOLO("best.pt").export(format="onnx", dynamic=True, imgsz=64)
    assert_same(predicted(YOLO("best.pt")), predicted(YOLO(path), engine="openvino"))
    assert "engine=openvino: " in capsys.readouterr().err


@needs_onnx
def test_the_oldest_exports_are_forgotten(home, exported, monkeypatch):
    monkeypatch.setattr(kept_export, "KEPT", 2)
    yolo = YOLO("best.pt")
    for _ in range(3):
        with torch.no_grad():
            yolo.model.model[0].conv.weight.mul_(1.1)
        predicted(yolo, engine="onnx")
    assert len(list(cache_dir().glob("engines/*"))) == 2 and len(exported) == 3
