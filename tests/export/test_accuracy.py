"""The accuracy before and after an export, which data= asks for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.export import run as exporting
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.models.detector import Detector
from tests.helpers.exports import save, tiny, tiny_classify, tiny_obb, tiny_pose, tiny_segment

IMAGES = 3
OPTIONS = {"imgsz": 64, "workers": 0}


def tiny_detect() -> Detector:
    """A small network with objects above the usual threshold."""
    model = tiny()
    with torch.no_grad():
        model.head.cv3[0][-1].weight.normal_(std=0.5)
        model.head.cv3[0][-1].bias.fill_(-0.5)
    return model


NETWORKS = {"detect": tiny_detect, "segment": tiny_segment, "pose": lambda: tiny_pose(columns=2), "obb": tiny_obb}
NETWORKS |= {"classify": tiny_classify}


def lay_out(model: Detector, weights: YOLO) -> str:
    """Write a dataset into the working folder whose labels are what the network finds; returns what data= names."""
    for index in range(IMAGES):
        picture = np.random.RandomState(index).randint(0, 255, (48 + 8 * index, 64, 3), np.uint8)
        Path("images").mkdir(exist_ok=True)
        Image.fromarray(picture).save(f"images/{index}.png")
    if model.task == "classify":
        for result in weights.predict("images", imgsz=64, verbose=False):
            for split in ("train", "val"):
                for name in model.names.values():
                    Path("animals", split, name).mkdir(parents=True, exist_ok=True)
                shutil.copy(result.path, Path("animals", split, model.names[result.probs.top1]))
        return "animals"
    weights.predict("images", imgsz=64, rect=False, conf=0.3, save_txt=True, name="labels", verbose=False)
    shutil.copytree(next(Path("runs").rglob("labels/labels")), "labels")
    for file in Path("labels").iterdir():  # corners of oriented boxes may lie outside of the image, labels may not
        rows = [row for row in file.read_text().splitlines() if all(0 <= float(n) <= 1 for n in row.split()[1:])]
        file.write_text("\n".join(rows))
    keys: dict[str, object] = {"path": ".", "train": "images", "val": "images", "names": dict(model.names)}
    if model.keypoints:
        keys |= {"kpt_shape": list(model.keypoints.shape)}
    Path("data.yaml").write_text(yaml.safe_dump(keys))
    return "data.yaml"


def same_numbers(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """predict and val prepare a network further (models.inference), which moves sums by roundings."""
    return one == pytest.approx(other, abs=1e-4) and one["fitness"] > 0.1


@pytest.mark.parametrize("task", NETWORKS)
def test_val_measures_the_network_and_the_file_of_each_task(folder, capfd, task):
    model = NETWORKS[task]()
    weights = YOLO(save(model, folder / "best.pt"))
    data = lay_out(model, weights)
    capfd.readouterr()
    path = weights.export(format="torchscript", data=data, **OPTIONS)
    told = capfd.readouterr()
    accuracy = weights.latest_export.accuracy
    options = {"data": data, "rect": False, "plots": False, "verbose": False, **OPTIONS}
    before, after = (YOLO(name).val(**options) for name in ("best.pt", path))
    assert same_numbers(accuracy.before, before.results_dict) and same_numbers(accuracy.after, after.results_dict)
    assert (accuracy.images, accuracy.split, accuracy.imgsz, accuracy.inside) == (IMAGES, "val", 64, {})
    assert json.loads(json.dumps(accuracy.as_dict()))["before"] == dict(accuracy.before)
    line = next(line for line in told.out.splitlines() if line.startswith("accuracy of the network and of the file on"))
    for name, value in before.headline.items():
        assert f"{name} {value:.4f} and {after.headline[name]:.4f} (" in line
    assert told.out.splitlines()[-1].startswith("next: ") and "not measured" not in told.err


def test_what_a_file_loses_is_in_the_numbers(folder, monkeypatch):
    """A file that finds half of the objects, which comparison would not keep."""
    model = tiny_detect()
    weights = YOLO(save(model, folder / "best.pt"))
    data = lay_out(model, weights)

    def worse(path: Path, device: str) -> object:
        runtime = open_exported(path, device)
        run = runtime._run

        def half(images: torch.Tensor) -> torch.Tensor:
            output = run(images)
            shares = torch.ones(output.shape[1:])
            shares[4:, ::2] = 0
            return output * shares

        runtime._run = half
        return runtime

    monkeypatch.setattr("bitfalcon_plugin.export.accuracy.open_exported", worse)
    weights.export(format="torchscript", data=data, **OPTIONS)
    accuracy = weights.latest_export.accuracy
    before, after = accuracy.headline["AP"]
    assert after < before - 0.1 and f"({after - before:+.4f})" in accuracy.describe()


@pytest.mark.parametrize("dynamic", [False, True])
def test_suppression_inside_is_that_of_both(folder, capsys, dynamic):
    model = tiny_detect()
    weights = YOLO(save(model, folder / "best.pt"))
    data = lay_out(model, weights)
    rule = {"conf": 0.32, "iou": 0.6, "max_det": 30}
    path = weights.export(format="torchscript", data=data, nms=True, dynamic=dynamic, **rule, **OPTIONS)
    accuracy = weights.latest_export.accuracy
    options = {"data": data, "rect": dynamic, "plots": False, "verbose": False, **rule, **OPTIONS}
    for measured, name in ((accuracy.before, "best.pt"), (accuracy.after, path)):
        assert same_numbers(measured, YOLO(name).val(**options).results_dict)
    assert accuracy.inside == {**rule, "agnostic_nms": False}
    assert "conf=0.32, iou=0.6, max_det=30: AP " in accuracy.describe()


def test_the_command_measures_only_where_data_is_given(folder, capsys, monkeypatch):
    model = tiny_detect()
    weights = YOLO(save(model, folder / "best.pt", settings={"data": "data.yaml", "imgsz": 64}))
    lay_out(model, weights)
    words = ["export", "model=best.pt", "format=torchscript", "imgsz=64"]
    assert main(words) == 0
    assert "accuracy" not in capsys.readouterr().out  # the checkpoint's own data is not asked for
    measured = [*words, "data=data.yaml", "workers=0", "split=train"]
    assert main(measured) == 0
    told = capsys.readouterr()
    assert f"on {IMAGES} images of 'train' at 64 px: AP " in told.out and "without effect" not in told.err
    assert main([*words, "split=train"]) == 0
    assert "without effect on an export: split" in capsys.readouterr().err
    monkeypatch.setattr(exporting, "measure_accuracy", lambda *_: pytest.fail("measured"))
    with pytest.raises(pytest.fail.Exception):
        main(measured)


@pytest.mark.parametrize(
    "names, imgsz, reason",
    [
        (["a", "b", "c"], 64, "The model knows 2 classes"),
        (["a", "b"], [64, 32], "val measures on squares"),
        (None, 64, "has no label"),
    ],
)
def test_an_export_that_val_cannot_measure_is_kept_and_says_why(folder, capsys, names, imgsz, reason):
    model = tiny_detect()
    weights = YOLO(save(model, folder / "best.pt"))
    lay_out(model, weights)
    if names is None:
        shutil.rmtree("labels")
    keys = {"path": ".", "train": "images", "val": "images", "names": names or ["a", "b"]}
    Path("data.yaml").write_text(yaml.safe_dump(keys))
    path = weights.export(format="torchscript", data="data.yaml", imgsz=imgsz, workers=0)
    assert Path(path).is_file() and weights.latest_export.accuracy is None
    told = capsys.readouterr()
    assert (
        f"the accuracy of '{path}' is not measured: " in told.err and reason in told.err and "Traceback" not in told.err
    )
