"""The whole path on a tiny dataset, through the command line: train, files, resume, val, predict, mistakes."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.tasks import DETECT
from bitfalcon_plugin.tasks.detect import detection_loss
from bitfalcon_plugin.train.records import columns_of
from tests.helpers.coloured import GRAPH, lay_out, place  # noqa: F401  the fixture
from tests.helpers.labels import targets_of, total

TRAIN = [
    "task=train",
    "model=small.yaml",
    "scale=n",
    "data=data/data.yaml",
    "imgsz=64",
    "batch=4",
    "nbs=8",
    "device=cpu",
    "close_mosaic=1",
    "plots=False",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of one epoch; tests copy it."""
    folder = tmp_path_factory.mktemp("trained")
    lay_out(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*TRAIN, "epochs=1"]) == 0
    return folder / "runs/detect/train"


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_whole_path(place, capsys):
    assert main([*TRAIN, "epochs=3", "plots=True"]) == 0
    out = capsys.readouterr().out
    run = place / "runs/detect/train"
    assert "3/3" in out and "COCO (pycocotools): AP" in out and "AdamW" in out
    table = rows(run)
    assert tuple(table[0]) == columns_of(DETECT) and [row["epoch"] for row in table] == ["1", "2", "3"]
    assert float(table[0]["train/cls_loss"]) > 0 and float(table[2]["time"]) > float(table[0]["time"])
    assert yaml.safe_load((run / "args.yaml").read_text())["epochs"] == 3
    assert (run / "val_batch0_pred.jpg").stat().st_size > 1000
    for name in ("best", "last"):
        content = torch.load(run / f"weights/{name}.pt")  # with its defaults
        assert content["graph"]["names"] == {0: "red", 1: "green", 2: "blue"}
        assert (content["training"] is None) is (name == "best")
    assert not [path for path in run.rglob("*") if path.name.startswith(".")]

    best = str(run / "weights/best.pt")
    assert main(["val", f"model={best}", "data=data/data.yaml", "split=train"]) == 0
    assert "10 images" in capsys.readouterr().out
    assert main(["predict", f"model={best}", "source=data/images/val", "imgsz=64", "conf=0.001"]) == 0
    out = capsys.readouterr().out
    assert "image 4/4" in out and "64x64" not in out and "Results saved to runs/detect/predict" in out
    assert sorted(path.name for path in (place / "runs/detect/predict").iterdir()) == [
        "0.jpg",
        "1.jpg",
        "2.jpg",
        "3.jpg",
    ]
    assert main(["info", best]) == 0
    assert "summary" in capsys.readouterr().out


def test_training_learns(place):
    metrics = YOLO("small.yaml").train(
        data="data/data.yaml",
        imgsz=64,
        batch=5,
        nbs=5,
        epochs=45,
        device="cpu",
        scale="n",
        mosaic=0,
        optimizer="AdamW",
        lr0=0.01,
        hsv_h=0,
        hsv_s=0,
        hsv_v=0,
        close_mosaic=0,
        plots=False,
    )
    assert metrics.ap50 > 0.5


def test_a_resumed_run_ends_with_the_weights_of_one_never_interrupted(place, monkeypatch):
    assert main([*TRAIN, "epochs=4", "name=whole", "project=runs"]) == 0

    import bitfalcon_plugin.train.loop as loop

    original, calls = loop._train_epoch, []

    def killed(trainer, interrupts):
        calls.append(trainer.epoch)
        if trainer.epoch == 2:
            raise KeyboardInterrupt
        return original(trainer, interrupts)

    monkeypatch.setattr(loop, "_train_epoch", killed)
    assert main([*TRAIN, "epochs=4", "name=cut", "project=runs"]) == 130
    monkeypatch.setattr(loop, "_train_epoch", original)
    assert calls == [0, 1, 2] and len(rows(place / "runs/cut")) == 2
    assert main(["train", "resume=runs/cut/weights/last.pt"]) == 0
    one, two = (torch.load(place / f"runs/{name}/weights/last.pt")["state"] for name in ("whole", "cut"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    columns = [column for column in columns_of(DETECT) if column != "time"]
    assert [[row[c] for c in columns] for row in rows(place / "runs/whole")] == [
        [row[c] for c in columns] for row in rows(place / "runs/cut")
    ]
    assert main(["train", "resume=runs/cut/weights/last.pt"]) == 2  # finished


def test_the_same_seed_gives_the_same_weights_and_workers_change_nothing(place):
    for name, extra in (("a", []), ("b", ["workers=2"]), ("c", ["seed=1"])):
        assert main([*TRAIN, "epochs=1", f"name={name}", "project=runs", *extra]) == 0
    a, b, c = (torch.load(place / f"runs/{name}/weights/last.pt")["state"]["model.0.conv.weight"] for name in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_save_false_leaves_one_checkpoint_when_the_run_ends(place):
    assert main([*TRAIN, "epochs=2", "save=False"]) == 0
    weights = place / "runs/detect/train/weights"
    assert [file.name for file in weights.iterdir()] == ["last.pt"]
    assert main([*TRAIN, "epochs=2", "name=saved"]) == 0
    kept, saved = (torch.load(folder / "last.pt")["state"] for folder in (weights, place / "runs/detect/saved/weights"))
    assert kept.keys() == saved.keys() and all(torch.equal(kept[key], saved[key]) for key in saved)


def test_other_classes_take_over_all_but_the_class_branches(place, trained, capsys):
    shutil.copytree(trained, "runs/detect/train")
    keys = yaml.safe_load((place / "data/data.yaml").read_text())
    (place / "data/more.yaml").write_text(yaml.safe_dump({**keys, "names": ["red", "green", "blue", "grey"]}))
    best = "runs/detect/train/weights/best.pt"
    assert main(["train", f"model={best}", "data=data/more.yaml", "imgsz=64", "batch=4", "epochs=1", "device=cpu"]) == 0
    assert "remapped  3 classes: red, green, blue" in capsys.readouterr().out
    assert YOLO("runs/detect/train2/weights/best.pt").names[3] == "grey"
    assert main(["val", f"model={best}", "data=data/more.yaml"]) == 2
    assert "knows 3 classes" in capsys.readouterr().err


def test_val_and_predict_refuse_classes_that_are_not_the_models(place, trained, capsys):
    shutil.copytree(trained, "runs/detect/train")
    keys = yaml.safe_load((place / "data/data.yaml").read_text())
    (place / "data/turned.yaml").write_text(yaml.safe_dump({**keys, "names": ["blue", "green", "red"]}))
    best = "runs/detect/train/weights/best.pt"
    assert main(["val", f"model={best}", "data=data/turned.yaml"]) == 2
    assert "in another order" in capsys.readouterr().err
    assert main(["predict", f"model={best}", "source=data/images/val", "classes=9", "save=False"]) == 0
    assert "classes=[9]" in capsys.readouterr().err
    (place / "text.jpg").write_text("no image")
    assert main(["predict", f"model={best}", "source=text.jpg"]) == 2
    assert [path.name for path in (place / "runs/detect").iterdir()] == ["train"]


def test_a_run_is_resumed_in_its_own_folder_from_anywhere(place, monkeypatch):
    import bitfalcon_plugin.train.loop as loop

    original = loop._train_epoch
    monkeypatch.setattr(
        loop,
        "_train_epoch",
        lambda trainer, interrupts: original(trainer, interrupts) if trainer.epoch < 1 else exit_(KeyboardInterrupt),
    )
    assert main([*TRAIN, "epochs=2"]) == 130
    monkeypatch.setattr(loop, "_train_epoch", original)
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert main(["train", f"resume={place / 'runs/detect/train/weights/last.pt'}"]) == 0
    assert len(rows(place / "runs/detect/train")) == 2 and not list((place / "elsewhere").iterdir())


def exit_(error):
    raise error


def broken_label(place):
    (place / "data/labels/train/3.txt").write_text("0 0.5 0.5 0.2\n")


def broken_graph(place):
    (place / "small.yaml").write_text(GRAPH.replace("[[3, 4]", "[[3, 40]"))


@pytest.mark.parametrize(
    "prepare, tokens, words",
    [
        (None, ["epcohs=1"], "epochs"),
        (None, ["epochs=many"], "epochs=many"),
        (None, ["data=none.yaml"], "none.yaml"),
        (None, ["device=7"], "device=7"),
        (broken_label, [], "3.txt:1"),
        (broken_graph, [], "from 40"),
        (None, ["model=yolov12q.yaml"], "yolov12q.yaml"),
        (None, ["model=yolov12.yaml", "imgsz=32", "batch=1"], "imgsz=64"),
        (None, ["model=yolov12.yaml", "imgsz=32", "batch=3"], "imgsz=64"),
        (None, ["scale=q"], "known: n, s"),
    ],
)
def test_a_mistake_ends_with_one_message_and_nothing_written(place, capsys, prepare, tokens, words):
    if prepare:
        prepare(place)
    assert (
        main(
            [*[t for t in TRAIN if t.split("=")[0] not in [x.split("=")[0] for x in tokens]], "epochs=1", *tokens][-20:]
        )
        == 2
    )
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err and "fault of bitfalcon" not in err
    assert not (place / "runs").exists()


def test_a_truncated_image_is_counted_and_left_out(place, capsys):
    image = place / "data/images/train/3.png"
    image.write_bytes(image.read_bytes()[:60])
    assert main([*TRAIN, "epochs=1"]) == 0
    out, err = capsys.readouterr()
    assert "9 images, 0 backgrounds, 1 unreadable" in out and "3.png" in err


@pytest.mark.parametrize("scale", ["n", "s", "m", "l"])
@pytest.mark.parametrize("graph", ["bitfalcon.yaml", "bitfalcon-p.yaml"])
def test_the_owners_graphs_train_as_written(graph, scale):
    torch.manual_seed(0)
    model = build(graph, scale, nc=4).train()
    raw = model(torch.rand(2, 3, 64, 64))
    targets = targets_of(torch.tensor([[4.0, 4, 40, 50]]), torch.tensor([3]), torch.tensor([1]))
    losses = detection_loss(raw, targets, sizes=raw.sizes, strides=model.strides)
    whole = total(losses)
    whole.backward()
    assert whole.isfinite() and raw["scores"].shape[1] == 4
    gradients = [p.grad for p in model.head.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)
