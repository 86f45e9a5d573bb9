"""Classification checkpoints of other makers: transforms, areas of attention, a real file, and the way back."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.yaml_files import find_model
from bitfalcon_plugin.models.weights.foreign import identify_checkpoint, open_checkpoint
from tests.helpers.foreign import write
from tests.helpers.paths import SHARED
from tests.models.test_conformance import VECTORS, foreign_state
from tests.models.weights.test_foreign import LICENSE, real, small


def test_classification_opens_and_goes_back(tmp_path, capsys):
    state = {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in foreign_state(VECTORS["turbo-n-cls"], True).items()
    }
    path = write(tmp_path / "x.pt", state, license=LICENSE, eps=1e-5, momentum=0.1)
    checkpoint = open_checkpoint(path)
    assert checkpoint.graph.variant == "turbo-all-residual" and not checkpoint.norms
    assert main(["info", str(path)]) == 0 and "classify" in capsys.readouterr().out
    assert main(["convert", str(path), f"out={tmp_path / 'ours.pt'}"]) == 0
    assert torch.load(tmp_path / "ours.pt")["license"] == LICENSE
    for source in (path, tmp_path / "ours.pt"):
        model = open_checkpoint(source).model()
        assert (model.task, model.strides, model.multiple) == ("classify", (1.0,), 32)
        assert main(["convert", str(source), "to=turbo", f"out={tmp_path / 'back.pt'}"]) == 0
        back = torch.load(tmp_path / "back.pt")
        assert list(back) == list(state) and all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("area", [1, 4, None])
def test_the_areas_of_attention_come_from_the_yaml_in_the_file(tmp_path, area):
    """Tensors do not tell them; without a YAML a turbo classifier has one area (spec/segment-classify.md 2.1)."""
    document = copy.deepcopy(dict(find_model("yolov12-turbo-cls.yaml").document))
    document["backbone"][6][3][2] = area
    attributes = {} if area is None else {"yaml": {**document, "nc": 80, "scale": "n"}}
    path = write(tmp_path / "x.pt", foreign_state(VECTORS["turbo-n-cls"], True), attributes=attributes)
    model = open_checkpoint(path).model()
    assert {block.attn.area for block in model.model[6].modules() if hasattr(block, "attn")} == {area or 1}


def with_transforms(module: str, names: tuple[str, ...], **entries: object):
    """What `write` saves for a classifier with transforms: Resize of torchvision, and classes of a module."""

    def wrap(model, cls):
        steps = [transforms.Resize(160), *(cls(f"{module}.{name}")() for name in names)]
        model.transforms = transforms.Compose(steps)
        return {"epoch": -1, "model": model, **entries}

    return wrap


@pytest.mark.parametrize("module", ["", "ultralytics.data.augment", "ultralytics.yolo.data.augment"])
def test_the_side_of_a_classifier_is_that_of_its_transforms(tmp_path, module):
    state, names = foreign_state(VECTORS["turbo-n-cls"], True), ("CenterCrop", "ToTensor") if module else ()
    path = write(tmp_path / "x.pt", state, wrap=with_transforms(module, names))
    assert open_checkpoint(path).settings == {"imgsz": 160}
    write(path, state, wrap=with_transforms(module, names, train_args={"imgsz": 96, "task": "classify"}))
    assert open_checkpoint(path).settings == {"imgsz": 96}
    found = identify_checkpoint(path).foreign.attributes["transforms"]["transforms"]
    assert [step["class"] for step in found] == ["Resize", *names] and found[0]["size"] == 160


@pytest.mark.parametrize("odd", [5, {"transforms": 5}, {"transforms": [5, {"class": "Resize", "size": "big"}]}])
def test_odd_transforms_do_no_harm(tmp_path, odd):
    assert open_checkpoint(small(tmp_path / "x.pt", transforms=odd)).settings == {}


@real
@torch.inference_mode()
def test_a_trained_classifier_gives_the_recorded_probabilities(tmp_path, capsys):
    recorded = json.loads((SHARED / "conformance" / "predict-signs.json").read_text())
    path = SHARED / "checkpoints" / recorded["checkpoint"]
    checkpoint = open_checkpoint(path)
    model = checkpoint.model()
    assert checkpoint.settings["imgsz"] == recorded["imgsz"] and checkpoint.measured == ((1,), 32)
    assert {str(index): name for index, name in model.names.items()} == recorded["names"]
    for item in recorded["images"]:
        x = centre_of(SHARED / "datasets" / "signs" / item["file"], recorded["imgsz"])
        expected = torch.tensor(item["probs"])
        torch.testing.assert_close(model.decode(model(x))[0], expected, atol=1e-4, rtol=0)
    assert main(["convert", str(path), f"out={tmp_path / 'ours.pt'}"]) == 0
    assert main(["convert", str(tmp_path / "ours.pt"), "to=v1", f"out={tmp_path / 'back.pt'}"]) == 0
    back, state = torch.load(tmp_path / "back.pt"), identify_checkpoint(path).foreign.state
    assert list(back) == list(state) and all(torch.equal(back[key], state[key]) for key in state)
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:300_000])
    capsys.readouterr()
    assert main(["info", str(tmp_path / "cut.pt")]) == 2 and "is cut off" in capsys.readouterr().err


def centre_of(path: Path, side: int) -> torch.Tensor:
    """The central square of a picture whose shorter side is resized to `side` (spec/segment-classify.md 2.5)."""
    with Image.open(path) as picture:
        width, height = picture.size
        short = min(width, height)
        width, height = (side if length == short else int(side * length / short) for length in (width, height))
        picture = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - side) / 2), round((height - side) / 2)
        pixels = np.asarray(picture.crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
