"""Pose and OBB checkpoints of other makers, also without their YAML, and what they say of keypoints."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.yaml_files import find_model
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from bitfalcon_plugin.models.weights.foreign import identify_checkpoint, open_checkpoint
from tests.helpers.foreign import write
from tests.helpers.paths import RECORDED, SHARED
from tests.models.test_conformance_segment import recorded_state
from tests.models.weights.test_foreign import LICENSE, real

VECTORS = json.loads(gzip.decompress((RECORDED / "pose-obb-models.json.gz").read_bytes()))
FAMILIES = {"v1-n-pose": "v1", "v1-n-obb": "v1", "yolov8-n-pose": "yolov8", "yolov8-n-obb": "yolov8"}


@pytest.mark.parametrize("name", FAMILIES)
def test_files_without_a_yaml_open_and_go_back(tmp_path, name, capsys):
    family, task, state = FAMILIES[name], name.rpartition("-")[2], recorded_state(VECTORS[name])
    path = write(tmp_path / "x.pt", state, license=LICENSE)
    model = open_checkpoint(path).model()
    assert model.task == task and getattr(model.head, "kpt_shape", (17, 3)) == (17, 3)
    assert main(["info", str(path)]) == 0 and f"family {family}, scale n, {task}" in capsys.readouterr().out
    assert main(["convert", str(path), f"out={tmp_path / 'ours.pt'}"]) == 0
    assert load_checkpoint(tmp_path / "ours.pt").model().task == task
    assert main(["convert", str(tmp_path / "ours.pt"), f"to={family}", f"out={tmp_path / 'back.pt'}"]) == 0
    back = torch.load(tmp_path / "back.pt")
    assert list(back) == list(state) and all(torch.equal(back[key], state[key]) for key in state)


def pose_state(values: int) -> dict[str, torch.Tensor]:
    """The recorded state of v8, with so many values for the keypoints of an object."""
    state, hidden = recorded_state(VECTORS["yolov8-n-pose"]), max(16, values)
    for key, tensor in state.items():
        if ".cv4." in key and tensor.ndim:
            shape = [min(size, values if key.split(".")[4] == "2" and axis == 0 else hidden) if size == 51 else size
                     for axis, size in enumerate(tensor.shape)]  # fmt: skip
            state[key] = torch.rand(shape)
    return state


def test_a_file_without_a_yaml_does_not_tell_how_many_keypoints_it_has(tmp_path):
    path = write(tmp_path / "x.pt", pose_state(6))  # 2 of three columns, or 3 of two
    with pytest.raises(UserError, match="has 6 values for the keypoints of an object.*Give the graph as model="):
        open_checkpoint(path)


def test_what_a_file_says_of_its_keypoints_is_kept(tmp_path, capsys):
    document = {**find_model("yolov8-pose.yaml").document, "kpt_shape": [3, 2], "nc": 1, "scale": "n"}
    said = {"kpt_names": {0: ["nose", "\x1b[31mred", "tail"]}, "kpt_oks_sigmas": [0.1, 0.2, 0.3]}
    path = write(tmp_path / "x.pt", pose_state(6), attributes={"yaml": document, "kpt_shape": [3, 2], **said})
    layout = open_checkpoint(path).graph.keypoints
    assert layout.shape == (3, 2) and layout.sigmas == (0.1, 0.2, 0.3) and layout.name(0) == "nose"
    assert layout.name(1).isprintable()
    assert main(["info", str(path)]) == 0
    said_of = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("keypoints: "))
    assert said_of == f"keypoints: kpt_shape [3, 2], nose, {layout.name(1)}, tail" and said_of.isprintable()
    assert main(["convert", str(path), f"out={tmp_path / 'ours.pt'}"]) == 0
    assert load_checkpoint(tmp_path / "ours.pt").graph.keypoints == layout
    assert main(["info", str(tmp_path / "ours.pt")]) == 0 and said_of in capsys.readouterr().out.splitlines()
    odd = {"kpt_names": [1], "kpt_oks_sigmas": "big", "flip_idx": [0, 0, 0], "skeleton": 5}
    write(path, pose_state(6), attributes={"yaml": document, **odd})
    assert open_checkpoint(path).graph.keypoints.as_keys() == {"kpt_shape": [3, 2]}


@real
@pytest.mark.parametrize("name", ["v1-n-gluetubes-pose", "v1-n-hituav-obb"])
def test_trained_files_open_and_go_back(tmp_path, name, capsys):
    path = SHARED / "checkpoints" / f"{name}.pt"
    checkpoint = open_checkpoint(path)
    model = checkpoint.model()
    assert model.task == name.rpartition("-")[2] and checkpoint.settings["imgsz"] == 320 and not checkpoint.norms
    assert checkpoint.measured == ((8, 16, 32), 32) and len(checkpoint.state) == 733
    if model.task == "pose":
        assert checkpoint.graph.keypoints.as_keys() == {"kpt_shape": [2, 3], "kpt_names": {0: ["head", "tail"]}}
    else:
        assert model.names == {0: "car", 1: "bicycle"} and checkpoint.graph.keypoints is None
    assert main(["convert", str(path), f"out={tmp_path / 'ours.pt'}"]) == 0
    assert main(["convert", str(tmp_path / "ours.pt"), "to=v1", f"out={tmp_path / 'back.pt'}"]) == 0
    back, state = torch.load(tmp_path / "back.pt"), identify_checkpoint(path).foreign.state
    assert list(back) == list(state) and all(torch.equal(back[key], state[key]) for key in state)
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:300_000])
    capsys.readouterr()
    assert main(["info", str(tmp_path / "cut.pt")]) == 2 and "is cut off" in capsys.readouterr().err
