"""The YOLO object: what scripts of the wider interface touch, and what they get where something is not here."""

from __future__ import annotations

import copy
import gzip
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
from tests.helpers.bright import Bright, bright, canvas
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.foreign import write
from tests.helpers.paths import RECORDED
from tests.models.test_conformance import foreign_state

QUICK = {
    "data": "data/data.yaml",
    "imgsz": 64,
    "batch": 5,
    "nbs": 5,
    "epochs": 1,
    "device": "cpu",
    "workers": 0,
    "plots": False,
    "verbose": False,
}


def weights(folder: Path, name: str, seed: int = 0, **entries) -> Path:
    """A checkpoint of small.yaml with weights of their own, whose scores are high enough to be found."""
    torch.manual_seed(seed)
    model = YOLO(folder / "small.yaml").model
    with torch.no_grad():
        for branch in model.head.cv3:
            branch[-1].bias.normal_(-1)
    save_checkpoint(folder / name, Checkpoint(model.graph, model.state_dict(), **entries))
    return folder / name


def boxes(yolo: YOLO, **settings) -> list[torch.Tensor]:
    return [result.boxes.data for result in yolo.predict("data/images/val", imgsz=64, **{"device": "cpu", **settings})]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) == 4 and all(len(x) and torch.equal(x, y) for x, y in zip(a, b))


def test_attributes_of_a_graph_and_of_a_checkpoint(place):
    graph = YOLO("small.yaml")
    assert (graph.task, graph.model_name, graph.cfg, graph.ckpt, graph.ckpt_path) == (
        "detect",
        "small.yaml",
        "small.yaml",
        {},
        None,
    )
    assert graph.overrides == {"task": "detect", "model": "small.yaml"} and graph.names == {0: "0", 1: "1", 2: "2"}
    assert (
        graph.trainer is graph.metrics is graph.predictor is graph.transforms is None
        and graph.device == torch.device("cpu")
    )
    path = weights(
        place,
        "x.pt",
        epoch=6,
        license="MIT",
        settings={"imgsz": 96, "data": "d.yaml", "lr0": 0.1},
        metrics={"fitness": 0.5},
    )
    yolo = YOLO(path, task="detect")
    assert (yolo.ckpt_path, yolo.cfg, yolo.model_name) == (str(path), None, str(path))
    assert yolo.overrides == {"task": "detect", "model": str(path), "imgsz": 96, "data": "d.yaml"}
    assert {key: yolo.ckpt[key] for key in ("epoch", "license", "train_metrics")} == {
        "epoch": 6,
        "license": "MIT",
        "train_metrics": {"fitness": 0.5},
    }
    assert yolo.ckpt["model"] is yolo.model and yolo.ckpt["train_args"]["lr0"] == 0.1


def test_a_bare_name_is_the_checkpoint_where_there_is_one(place):
    weights(place, "small.pt")
    assert YOLO("small").ckpt_path == "small.pt" and YOLO("yolov12n").ckpt_path is None


def test_info_is_a_tuple_and_prints(place, capsys):
    yolo = YOLO("small.yaml")
    yolo.model.head.requires_grad_(False)
    capsys.readouterr()
    layers, parameters, gradients, gflops = found = yolo.info(verbose=False, imgsz=64)
    assert capsys.readouterr().out == "" and isinstance(found, tuple)
    assert parameters == sum(p.numel() for p in yolo.model.parameters())
    assert gradients == parameters - sum(p.numel() for p in yolo.model.head.parameters())
    assert layers == sum(1 for module in yolo.model.modules() if not list(module.children()))
    assert yolo.info(imgsz=128).gflops == pytest.approx(4 * gflops)
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert yolo.info(True) and len(capsys.readouterr().out.splitlines()) == 1 + 6 + 1  # a head line, the rows, the sum


@pytest.mark.parametrize(
    "act",
    [
        lambda: YOLO("none.pt"),
        lambda: YOLO("none.yaml"),
        lambda: YOLO("small.yaml").train(data="none.yaml"),
        lambda: YOLO("small.yaml").predict("none.jpg"),
        lambda: YOLO("small.yaml").val(data="none.yaml"),
        lambda: YOLO("small.yaml").load("none.pt"),
        lambda: YOLO("small.yaml").predict("none", stream=True),
    ],
)
def test_what_is_not_there_is_a_file_not_found(place, act):
    with pytest.raises(FileNotFoundError, match="none") as caught:
        act()
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda: YOLO(3), "expected the path"),
        (lambda: YOLO(None), "expected the path"),
        (lambda: YOLO(" "), "expected the path"),
        (lambda: YOLO("best.onnx"), "'best.onnx' does not exist"),
        (lambda: YOLO("small.yaml", task="segment"), "task='segment'"),
        (lambda: YOLO("small.yaml").predict("data", predictor=3), "no predictor of others"),
        (lambda: YOLO("small.yaml").train(dict), "no trainer of others"),
        (lambda: YOLO("small.yaml").val(dict), "no validator of others"),
        (lambda: YOLO("small.yaml").predict("data", conf="high"), "conf"),
        (lambda: YOLO("small.yaml").predict("data", cnof=1), "conf"),
        (lambda: YOLO("small.yaml").predict(), "source"),
        (lambda: YOLO("small.yaml").predict(3.5), "float"),
        (lambda: YOLO("small.yaml").predict("data", model="y.pt"), r"make another: YOLO\('y.pt'\)"),
        (lambda: YOLO("small.yaml").load(3), "ends in .pt"),
        (lambda: YOLO("small.yaml").load({"a": 1}), "ends in .pt"),
        (lambda: YOLO("small.yaml").save("x.onnx"), "ends in .pt"),
        (lambda: YOLO("small.yaml").save(3), "ends in .pt"),
        (lambda: YOLO("small.yaml").to("tpu"), "tpu"),
        (lambda: YOLO("small.yaml").to([1]), "expected a device"),
        (lambda: YOLO("small.yaml").to(torch.int8), "floating"),
        (lambda: YOLO("small.yaml").add_callback("on_nothing", print), "on_nothing"),
        (lambda: YOLO("small.yaml").track("x.mp4"), "track is not here.*supervision"),
        (lambda: YOLO("small.yaml").tune(), "tune.*train"),
        (lambda: YOLO("small.yaml").export(format="onx"), "format=onx: there is no such format.*'onnx'"),
        (lambda: YOLO("small.yaml").benchmark(format="onx"), "onnx"),
    ],
)
def test_what_cannot_be_meant_is_said(place, act, words):
    with pytest.raises(UserError, match=words):
        act()


def test_unknown_attributes_are_the_networks(place):
    yolo = YOLO("small.yaml")
    assert yolo.stride.tolist() == [8, 16] and yolo.state_dict().keys() == yolo.model.state_dict().keys()
    assert len(list(yolo.parameters())) == len(list(yolo.model.parameters()))
    with pytest.raises(AttributeError, match="predcit.*Did you mean 'predict'"):
        yolo.predcit  # noqa: B018
    assert not hasattr(yolo, "_repr_html_") and not hasattr(yolo, "nothing_of_the_kind")
    other = copy.deepcopy(yolo)
    assert other.model is not yolo.model and same_state(other, yolo)


def same_state(a: YOLO, b: YOLO) -> bool:
    return all(torch.equal(x, b.model.state_dict()[name]) for name, x in a.model.state_dict().items())


def test_a_second_call_uses_the_prepared_model_until_the_weights_change(place):
    yolo, used = YOLO(weights(place, "x.pt")), []

    def call(**settings):
        found = boxes(yolo, **settings)
        used.append(yolo.predictor.model)
        return found

    first = call()
    assert same(call(conf=0.1, batch=4), boxes(yolo, conf=0.1)) and used[0] is used[1]
    with torch.no_grad():
        yolo.model.head.cv3[0][-1].bias.add_(1)
    assert not same(first, call()) and used[2] is not used[1]
    yolo.half()
    call()
    assert next(used[3].parameters()).dtype == torch.float16
    yolo.float().load(place / "x.pt")
    assert same(first, call()) and used[4] is not used[3]
    yolo.reset_weights()
    call(conf=0.001)
    assert used[5] is not used[4] and used[5].names is not yolo.model.names
    yolo.model.names = {0: "a", 1: "b", 2: "c"}
    assert yolo("data/images/val", imgsz=64)[0].names[1] == "b"


def test_changes_of_weights_are_noticed_however_they_are_made(place):
    yolo = YOLO(weights(place, "x.pt"))
    before = boxes(yolo)  # prepares a copy before the script has the network
    bias, weight = yolo.model.head.cv3[0][-1].bias, yolo.model.model[1].conv.weight
    bias.data += 1
    assert not same(before, boxes(yolo))
    bias.data -= 1
    assert same(before, boxes(yolo))
    used = yolo.predictor.model
    boxes(yolo)
    assert yolo.predictor.model is used
    for change in (
        lambda: bias.data[0].add_(1),  # one number
        lambda: setattr(bias, "data", bias.data * 2),  # another tensor in its place
        lambda: setattr(weight, "data", weight.data.flip(0)),  # the same numbers in another order
        lambda: weight.data.neg_(),
        lambda: yolo.model.model[1].bn.running_mean.data.add_(1),
        lambda: yolo.state_dict()["model.1.conv.weight"].zero_(),
    ):
        change()
        boxes(yolo)
        assert yolo.predictor.model is not used
        used = yolo.predictor.model


def test_predictions_after_training_are_those_of_the_best_weights(place):
    yolo = YOLO(weights(place, "x.pt"))
    before = boxes(yolo, conf=0.0001)
    metrics = yolo.train(**QUICK)
    assert metrics is yolo.metrics and yolo.overrides == {
        "task": "detect",
        "model": yolo.ckpt_path,
        "imgsz": 64,
        "data": str((place / "data/data.yaml").resolve()),
        "single_cls": False,
    }
    after = boxes(yolo, conf=0.0001)
    assert not same(before, after) and same(after, boxes(YOLO(yolo.trainer.best), conf=0.0001))
    assert yolo.val(plots=False, verbose=False, device="cpu").box.map == pytest.approx(metrics.box.map, abs=1e-6)


def test_training_starts_from_the_weights_as_they_are(place):
    yolo, start = YOLO(weights(place, "x.pt")), []
    with torch.no_grad():
        yolo.model.model[0].conv.weight.fill_(0.125)
    yolo.half().float()
    yolo.add_callback(
        "on_train_start", lambda trainer: start.append(trainer.model.model[0].conv.weight.detach().clone())
    )
    yolo.train(**{**QUICK, "warmup_epochs": 0})
    assert torch.equal(start[0], torch.full_like(start[0], 0.125))


@pytest.mark.parametrize("model", ["x.pt", "small.yaml"])
def test_saved_weights_are_the_same_model(place, model, monkeypatch):
    path = weights(place, "x.pt", license="AGPL-3.0")
    yolo = YOLO(path) if model == "x.pt" else YOLO(model).load(path)
    before = boxes(yolo)
    yolo.model.names = {0: "red", 1: "green", 2: "blue"}
    assert yolo.save("deep/y.pt") is None and [p.name for p in Path("deep").iterdir()] == ["y.pt"]
    again = YOLO("deep/y.pt")
    assert same(before, boxes(again)) and again.names[2] == "blue" and again.checkpoint.license == "AGPL-3.0"
    assert torch.load("deep/y.pt")["training"] is None  # with its defaults
    assert yolo.fuse() is yolo and yolo.info(verbose=False).layers < again.info(verbose=False).layers
    yolo.save()
    assert same(before, boxes(YOLO("saved_model.pt"))) and same(before, boxes(yolo))


def test_load_gives_a_graph_its_weights_and_training_begins_with_them(place, capsys):
    path, start = weights(place, "x.pt"), []
    yolo = YOLO("small.yaml")
    assert yolo.load(path) is yolo and same(boxes(yolo), boxes(YOLO(path)))
    yolo.add_callback(
        "on_train_start", lambda trainer: start.append(trainer.model.model[0].conv.weight.detach().clone())
    )
    yolo.train(**QUICK)
    assert torch.equal(start[0], YOLO(path).model.model[0].conv.weight)
    assert "random" not in capsys.readouterr().err


def test_load_replaces_the_weights_of_a_checkpoint_and_gathers_licences(place):
    yolo = YOLO(weights(place, "x.pt", license="MIT"))
    other = weights(place, "y.pt", seed=1, license="AGPL-3.0")
    assert not same_state(yolo, YOLO(other))
    yolo.load(other)
    assert same_state(yolo, YOLO(other)) and yolo.checkpoint.license == "MIT; AGPL-3.0" and yolo.ckpt_path == str(other)
    (place / "small.yaml").write_text((place / "small.yaml").read_text().replace("[64, 3, 2]", "[96, 3, 2]"))
    with pytest.raises(UserError, match="do not fit"):
        yolo.load(weights(place, "wide.pt"))
    assert same_state(yolo, YOLO(other))


def test_reset_weights_are_fresh_and_owe_nobody(place):
    yolo, start = YOLO(weights(place, "x.pt", license="MIT")), []
    old = yolo.model.model[1].conv.weight.detach().clone()
    assert yolo.reset_weights() is yolo and yolo.checkpoint.license is None
    fresh = yolo.model.model[1].conv.weight.detach().clone()
    assert not torch.equal(old, fresh) and yolo.model.names == YOLO(place / "x.pt").names
    yolo.add_callback(
        "on_train_start", lambda trainer: start.append(trainer.model.model[1].conv.weight.detach().clone())
    )
    yolo.train(**QUICK)
    assert torch.equal(start[0], fresh)


def test_random_weights_are_told_of(place, capsys):
    yolo = YOLO("small.yaml")
    boxes(yolo)
    assert "small.yaml is a graph, its weights are random" in capsys.readouterr().err
    yolo.model.load_state_dict(YOLO(weights(place, "x.pt")).model.state_dict())
    boxes(yolo)
    assert "random" not in capsys.readouterr().err


def test_devices_and_types(place):
    yolo = YOLO(weights(place, "x.pt"))
    assert yolo.to("cpu") is yolo.cpu() is yolo.eval() is yolo.half() is yolo and yolo.overrides["device"] == "cpu"
    assert next(yolo.parameters()).dtype == torch.float16 and not yolo.model.training
    assert next(yolo.to(torch.device("cpu"), torch.float64).parameters()).dtype == torch.float64
    assert next(yolo.float().to(device="cpu").parameters()).dtype == torch.float32
    if not torch.cuda.is_available():
        for wrong in (lambda: yolo.cuda(), lambda: yolo.to("cuda:0"), lambda: yolo.to(0)):
            with pytest.raises(UserError, match="GPU|not here"):
                wrong()
        assert yolo.overrides["device"] == "cpu"


def test_overrides_hold_for_every_call_that_does_not_say_otherwise(place):
    yolo = YOLO(weights(place, "x.pt"))
    assert max(map(len, boxes(yolo, conf=0.01))) > 2
    yolo.overrides["max_det"], yolo.overrides["conf"] = 2, 0.01
    assert max(map(len, boxes(yolo))) == 2 < max(map(len, boxes(yolo, max_det=9)))


def test_predictions_in_inference_mode_leave_a_model_that_can_be_trained(place):
    yolo = YOLO(weights(place, "x.pt"))
    with torch.inference_mode():
        found = boxes(yolo)
    assert same(found, boxes(yolo))
    yolo.model.model[0](torch.zeros(1, 3, 8, 8)).sum().backward()
    assert yolo.model.model[0].conv.weight.grad is not None


def test_callbacks_of_predictions_and_validations(place):
    yolo, seen = bright(place), []
    for event in (
        "on_predict_start",
        "on_predict_batch_start",
        "on_predict_postprocess_end",
        "on_predict_batch_end",
        "on_predict_end",
    ):
        yolo.add_callback(event, lambda about, event=event: seen.append((event, about)))
    assert len(yolo.predict([canvas(48, 64)] * 3, batch=2)) == 3
    batch = ["on_predict_batch_start", "on_predict_postprocess_end", "on_predict_batch_end"]
    assert [event for event, _ in seen] == ["on_predict_start", *batch, *batch, "on_predict_end"]
    assert all(about is yolo.predictor for _, about in seen) and list(yolo.callbacks["on_predict_start"]) != []
    yolo.clear_callback("on_predict_end")
    yolo(canvas(48, 64))
    assert seen[-1][0] == "on_predict_batch_end"
    yolo.reset_callbacks()
    count = len(seen)
    yolo(canvas(48, 64))
    assert len(seen) == count
    other = YOLO(weights(place, "x.pt"))
    other.add_callback("on_val_end", lambda validator: seen.append(validator.metrics))
    assert (
        other.val(data="data/data.yaml", imgsz=64, plots=False, verbose=False, device="cpu") is not None
        and seen[-1] is other.metrics
    )


def test_several_threads_predict_with_one_object(place):
    yolo = YOLO(weights(place, "x.pt"))
    expected, found = boxes(yolo), {}

    def work(number: int) -> None:
        found[number] = [boxes(yolo) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(same(expected, one) for many in found.values() for one in many)


def test_embeddings_are_means_of_maps(place):
    yolo = YOLO(weights(place, "x.pt"))
    picture = torch.full((1, 3, 64, 64), 0.5)
    (vector,) = yolo.embed(picture, device="cpu")
    with torch.no_grad():
        x, maps = picture, []
        for row in yolo.model.model[:-1]:
            x = row(x)
            maps.append(x.mean((2, 3))[0])
    torch.testing.assert_close(vector, maps[4], atol=1e-4, rtol=1e-4)
    (both,) = yolo.embed(picture, stream=True, embed=[1, 4], device="cpu")
    torch.testing.assert_close(both, torch.cat((maps[1], maps[4])), atol=1e-4, rtol=1e-4)


def test_a_list_or_an_iterator_always(place):
    yolo = bright(place)
    assert isinstance(yolo(canvas(48, 64)), list) and isinstance(yolo.predict("data/images/val"), list)
    stream = yolo("data/images/val", stream=True)
    assert not isinstance(stream, list) and len(next(stream)) == 1 and len(list(stream)) == 3
    assert isinstance(yolo.model, Bright) and not Path("runs").exists()


@pytest.mark.parametrize("name, task", [("turbo-n-seg", "segment"), ("turbo-n-cls", "classify")])
def test_info_and_convert_of_other_tasks_say_family_task_and_licence(tmp_path, name, task, capsys):
    vectors = json.loads(gzip.decompress((RECORDED / "conformance.json.gz").read_bytes()))
    source = write(tmp_path / "x.pt", foreign_state(vectors[name], True), license="AGPL-3.0 " + "x" * 500)
    licence = "licence: AGPL-3.0 " + "x" * 191
    for arguments in (
        ["convert", str(source), f"out={tmp_path / 'ours.pt'}"],
        ["info", str(tmp_path / "ours.pt")],
        ["convert", str(source), "to=turbo", f"out={tmp_path / 'a.pt'}"],
        ["convert", str(tmp_path / "ours.pt"), "to=turbo", f"out={tmp_path / 'b.pt'}"],
    ):
        capsys.readouterr()
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert "family turbo" in out and task in out and licence in out and "x" * 192 not in out


def test_info_of_our_own_file_says_where_it_comes_from(place, capsys):
    assert main(["info", str(weights(place, "x.pt", license="CC0", epoch=4))]) == 0
    out = capsys.readouterr().out
    assert "family of no other maker, detect, 3 classes" in out and "epoch 5" in out and "licence: CC0" in out
    assert "classes: 0, 1, 2" in out and "small.yaml scale=n summary" in out


@pytest.mark.parametrize("family", ["yolo11", "yolov8"])
def test_convert_writes_every_family(tmp_path, family):
    vectors = json.loads(gzip.decompress((RECORDED / "conformance.json.gz").read_bytes()))
    state = foreign_state(vectors[f"{family}-n"], False)
    torch.save(state, tmp_path / "x.pt")
    assert main(["convert", str(tmp_path / "x.pt"), f"out={tmp_path / 'ours.pt'}"]) == 0
    assert main(["convert", str(tmp_path / "ours.pt"), f"to={family}", f"out={tmp_path / 'back.pt'}"]) == 0
    back = torch.load(tmp_path / "back.pt")
    assert back.keys() == state.keys() and all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_json_is_all_that_predict_prints(place, capsys):
    weights(place, "x.pt", license="AGPL-3.0")
    capsys.readouterr()
    assert main(["predict", "model=x.pt", "source=data/images/val", "--json", "imgsz=64", "save=False"]) == 0
    out, err = capsys.readouterr()
    assert [Path(json.loads(line)["path"]).name for line in out.splitlines()] == ["0.png", "1.png", "2.png", "3.png"]
    assert "AGPL-3.0" in err


@pytest.mark.parametrize(
    "given",
    [
        {"device": torch.device("cpu")},
        {"classes": {0, 2}},
        {"classes": range(2)},
        {"imgsz": np.array([64, 96])},
        {"classes": np.array([0])},
        {"classes": torch.tensor([0, 1])},
        {"conf": torch.tensor(0.25)},
        {"mode": "train"},
    ],
)
def test_settings_may_be_what_scripts_have_at_hand(place, given):
    plain = {"device": "cpu", "mode": "predict", "imgsz": 64, "conf": 0.25}
    for key, value in given.items():
        plain[key] = {"device": "cpu", "mode": "predict"}.get(key) or (
            value if isinstance(value, (set, range)) else value.tolist() if hasattr(value, "tolist") else value
        )
        plain[key] = sorted(plain[key]) if isinstance(plain[key], (set, range)) else plain[key]
    yolo = YOLO(weights(place, "x.pt"))
    found, expected = (
        yolo.predict("data/images/val", **{"device": "cpu", "imgsz": 64, **keys}) for keys in (given, plain)
    )
    assert len(found) == 4 and all(torch.equal(a.boxes.data, b.boxes.data) for a, b in zip(found, expected))
    assert yolo.predictor.args.mode == "predict"


def test_folded_weights_are_replaced_too(place):
    yolo, path = YOLO(weights(place, "x.pt")), weights(place, "y.pt", seed=1)
    yolo.fuse()
    yolo.load(path)
    assert same(boxes(yolo), boxes(YOLO(path)))
    with pytest.raises(UserError, match=r"^load\(a Detector\): expected the path of a checkpoint"):
        yolo.load(yolo.model)


def test_data_that_the_checkpoint_names_and_that_are_not_here(place):
    yolo = YOLO(weights(place, "x.pt", settings={"data": "gone.yaml"}))
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml.* trained on data=gone\.yaml; give data="):
        yolo.val(device="cpu")
    with pytest.raises(FileNotFoundError) as caught:
        yolo.val(data="gone.yaml", device="cpu")
    assert "trained on" not in str(caught.value)
