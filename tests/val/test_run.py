"""What val prints and writes: run folder, COCO's file against pycocotools, label files, filters, events, mistakes."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.callbacks import EVENTS, Events
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data.formats.dataset_yaml import DataSpec
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.inference import precision
from bitfalcon_plugin.predict import coco_json
from bitfalcon_plugin.predict.coco_json import COCO_IDS, is_coco
from bitfalcon_plugin.val import run as measuring
from bitfalcon_plugin.val.run import run_val
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.finder import BrightBoxes, measure_without_losses, painted
from tests.helpers.paths import SHARED

QUIET = {"plots": False, "verbose": False}


@pytest.fixture(autouse=True)
def finder(monkeypatch):
    measure_without_losses(monkeypatch)
    monkeypatch.setattr("bitfalcon_plugin.plots.figure.DPI", 40)


def val(model=None, events=None, **keys):
    settings = load_settings({"mode": "val", "data": "data/data.yaml", "imgsz": 64, "batch": 2, **keys})
    return run_val(model or BrightBoxes(), settings, events)


def files(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


class Errs(BrightBoxes):
    """Boxes whose shift and score follow from their position, and a second, wrong class for each."""

    def decode(self, images):
        out = super().decode(images)
        shift = (out[:, :1] * 7 + out[:, 1:2]) % 9 - 4
        there = out[:, 4:].amax(1, keepdim=True) > 0
        out[:, :1] += shift * there
        scores = out[:, 4:] * (1 - (out[:, 1:2] % 7) / 8)
        out[:, 4:] = torch.maximum(scores, scores.roll(1, 1) * 0.6)
        return out


def lay_out_many(folder, names):
    """Ten images with names as given, one to three rectangles each."""
    draw = torch.Generator().manual_seed(1)
    for index, name in enumerate(names):
        rows, boxes = [], []
        for cls in range(1 + index % 3):
            w, h = (int(v) for v in torch.randint(10, 40, (2,), generator=draw))
            x = 5 + 65 * cls
            boxes.append((cls, x, 12, x + w, 12 + h))
            rows.append(f"{cls} {(x + w / 2) / 200} {(12 + h / 2) / 80} {w / 200} {h / 80}\n")
        painted(folder / f"images/{name}.png", (200, 80), boxes)
        label = folder / f"labels/{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("".join(rows))
    (folder / "data.yaml").write_text(
        yaml.safe_dump({"train": "images", "val": "images", "names": ["red", "green", "blue"]})
    )


def truth_of(folder, ids, offset):
    """COCO's truth, read from the label files anew."""
    labels = []
    for name, key in ids.items():
        for line in (folder / f"labels/{name}.txt").read_text().splitlines():
            cls, cx, cy, w, h = (float(word) for word in line.split())
            box = [(cx - w / 2) * 200, (cy - h / 2) * 80, w * 200, h * 80]
            labels.append(
                {
                    "id": len(labels) + 1,
                    "image_id": key,
                    "category_id": int(cls) + offset,
                    "bbox": box,
                    "iscrowd": 0,
                    "area": box[2] * box[3],
                }
            )
    return {
        "images": [{"id": key} for key in ids.values()],
        "annotations": labels,
        "categories": [{"id": index + offset} for index in range(3)],
    }


@pytest.mark.parametrize("numbers", [True, False])
def test_pycocotools_gets_the_same_numbers_from_predictions_json(tmp_path, monkeypatch, numbers):
    monkeypatch.chdir(tmp_path)
    names = [f"{index:06}" if numbers else f"picture {index}" for index in range(10)]
    lay_out_many(tmp_path / "data", names)
    metrics = val(Errs(), imgsz=224, save_json=True, **QUIET)
    assert files("runs/detect/val") == {"predictions.json", "worst.csv"}
    rows = json.loads(Path("runs/detect/val/predictions.json").read_text())
    assert all(set(row) == {"image_id", "category_id", "bbox", "score"} for row in rows)
    assert all(
        row["bbox"] == [round(side, 3) for side in row["bbox"]] and row["score"] == round(row["score"], 5)
        for row in rows
    )
    ids = {name: int(name) if numbers else name for name in names}
    (tmp_path / "truth.json").write_text(json.dumps(truth_of(tmp_path / "data", ids, 1)))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        found = COCOeval(truth, truth.loadRes("runs/detect/val/predictions.json"), "bbox")
        found.evaluate(), found.accumulate(), found.summarize()
    assert 0.1 < metrics.ap < 0.9  # neither all nor nothing
    for value, expected in zip(metrics.stats.values(), found.stats, strict=True):
        assert value == pytest.approx(expected, abs=1e-6) or expected == -1 and value != value


def spec(*entries, nc=80) -> DataSpec:
    return DataSpec(Path("d.yaml"), Path("/"), {i: str(i) for i in range(nc)}, {"val": tuple(entries)})


@pytest.mark.parametrize(
    "data, expected",
    [
        (spec("/data/coco/val2017.txt"), True),
        (spec("/data/COCO/test-dev2017.txt"), True),
        (spec("/x/coco/images/val2017"), True),
        (spec("/data/coco/val2017.txt", nc=79), False),
        (spec("/data/own/val2017.txt"), False),
        (spec("/data/coco/val.txt"), False),
        (spec("/data/coco/val2017.txt", "/data/coco/more.txt"), False),
        (spec("/data/coco/val2017.zip"), False),
    ],
)
def test_what_is_coco(data, expected):
    assert is_coco(data, "val") is expected and not is_coco(data, "test")


def test_the_ids_of_coco():
    assert list(COCO_IDS) == sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})


def test_coco_gets_its_own_category_ids(place, monkeypatch):
    val(save_json=True, **QUIET)
    monkeypatch.setattr(measuring, "is_coco", lambda data, split: True)
    monkeypatch.setattr(coco_json, "COCO_IDS", (7, 70, 90))
    val(save_json=True, **QUIET)
    plain, coco = (json.loads(Path(f"runs/detect/{name}/predictions.json").read_text()) for name in ("val", "val2"))
    assert [{1: 7, 2: 70, 3: 90}[row["category_id"]] for row in plain] == [row["category_id"] for row in coco]
    assert {row["category_id"] for row in plain} == {1, 2, 3}


@pytest.mark.parametrize("scores", [False, True])
def test_label_files_of_what_was_found(place, scores):
    painted(place / "data/images/val/more/0.png", (64, 48), [])  # nothing to find; its name is there already
    val(save_txt=True, save_conf=scores, **QUIET)
    folder = Path("runs/detect/val")
    assert files(folder) == {"worst.csv", *(f"labels/{index}.txt" for index in range(4))}
    for index in range(4):
        (line,) = (folder / f"labels/{index}.txt").read_text().splitlines()
        own = [float(word) for word in (place / f"data/labels/val/{index}.txt").read_text().split()]
        found = [float(word) for word in line.split()]
        assert found[:5] == pytest.approx(own, abs=1e-5) and found[5:] == ([pytest.approx(0.9)] if scores else [])


def test_everything_a_val_leaves(place, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    metrics = val(Errs())
    assert metrics.save_dir == Path("runs/detect/val")
    curves = {f"{letter}_curve.png" for letter in ("PR", "F1", "P", "R")}
    batches = {f"val_batch{number}_{kind}.jpg" for number in range(2) for kind in ("labels", "pred")}
    assert files(metrics.save_dir) == {
        *curves,
        *batches,
        "confusion_matrix.png",
        "confusion_matrix_normalized.png",
        "worst.csv",
        "worst.jpg",
    }
    told = capsys.readouterr().out
    assert "green" in told and f"confidence {metrics.best_conf:.3f}" in told and "Worst images" in told
    assert "Results saved to runs/detect/val" in told and "postprocess" in told
    assert val(project="p", name="n", exist_ok=True, **QUIET).save_dir is None and not Path("p").exists()
    assert [
        val(project="p", name="n", save_json=True, exist_ok=ok, **QUIET).save_dir for ok in (False, True, False)
    ] == [Path("p/n"), Path("p/n"), Path("p/n2")]


def test_validation_is_rectangular_unless_that_is_refused(place):
    shapes = {}
    for name, keys in (("default", {}), ("on", {"rect": True}), ("off", {"rect": False})):
        model = BrightBoxes()
        val(model, imgsz=128, **keys, **QUIET)
        shapes[name] = {shape[2:] for shape in model.seen}
    # interface.md 5.3: height and width are ceil(share * imgsz / stride + 0.5) strides; the images are 3 to 4
    assert shapes == {"default": {(128, 160)}, "on": {(128, 160)}, "off": {(128, 128)}}


def test_all_may_be_one_class(place):
    metrics = val(Errs(), single_cls=True, conf=0.05, **QUIET)
    assert metrics.names == {0: "item"} and metrics.confusion_matrix.matrix.shape == (2, 2) and metrics.instances == 4
    assert metrics.confusion_matrix.matrix[0].sum() == 4  # one box a place


def test_only_some_classes(place):
    metrics = val(classes=[0, 2], save_json=True, **QUIET)
    assert [row.name for row in metrics.classes] == [
        "red",
        "blue",
    ] and metrics.confusion_matrix.matrix.sum() == metrics.instances == 3
    assert {row["category_id"] for row in json.loads(Path("runs/detect/val/predictions.json").read_text())} == {1, 3}
    assert val(classes=1, single_cls=True, **QUIET).confusion_matrix.matrix.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    "keys, expected, says",
    [
        ({}, 301, "max_det=301"),
        ({"max_det": 300}, 300, "not all of them can be found"),
        ({"max_det": 400}, 400, "100 best"),
    ],
)
def test_room_for_all_objects_of_an_image(place, monkeypatch, capsys, keys, expected, says):
    (place / "data/labels/val/0.txt").write_text("".join(f"0 {0.1 + k / 500} 0.5 0.1 0.1\n" for k in range(301)))
    seen, own = [], measuring.validate
    monkeypatch.setattr(
        measuring, "validate", lambda *args, **options: seen.append(args[3].rule.max_det) or own(*args, **options)
    )
    val(**keys, **QUIET)
    told = capsys.readouterr()
    assert seen == [expected] and says in told.out + told.err


def seen_by(model, **keys):
    """The types that the first convolution of a model returns."""
    seen = []
    hook = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d)).register_forward_hook(
        lambda *call: seen.append(call[2].dtype)
    )
    metrics = val(model, **keys, **QUIET)
    hook.remove()
    return set(seen), metrics


def test_half_precision_is_where_it_is_asked_for_and_said_where_it_is_not(place, monkeypatch, capsys):
    types = {"cpu": (None, "this CPU gains nothing by it"), "cuda": (torch.float16, "float16")}
    monkeypatch.setattr(precision, "half_type", lambda device: types[device.type])
    model = build("small.yaml", "n", names={0: "red", 1: "green", 2: "blue"}).eval()
    full, metrics = seen_by(model)
    assert full == {torch.float32} and "note" not in capsys.readouterr().err
    assert seen_by(model, half=True)[0] == {torch.float32}
    assert "half=True" in (told := capsys.readouterr().err) and "float32" in told and "amp=bf16" in told
    half, close = seen_by(model, amp="bf16")
    assert half == {torch.bfloat16} and capsys.readouterr().err == "" and close.images == metrics.images
    assert seen_by(model, half=True, amp="bf16")[0] == {torch.bfloat16} and seen_by(model, amp="fp32")[0] == {
        torch.float32
    }
    gpu = torch.device("cuda")  # only named: none is needed here
    assert precision.evaluation_precision(load_settings({"half": True}), gpu) is torch.float16
    assert precision.evaluation_precision(load_settings({}), gpu) is None


def test_ap_on_the_letterboxed_input_is_printed_on_request(place, capsys):
    plain, both = val(Errs(), **QUIET), val(Errs(), letterbox_ap=True, **QUIET)
    assert plain.letterbox is None and plain.results_dict == both.results_dict
    line = f"not COCO's): AP {both.letterbox.map:.3f}  AP50 {both.letterbox.map50:.3f}"
    assert capsys.readouterr().out.count("On the letterboxed input") == 1 and line in both.table()
    # No box lies at an edge, so that only the area's rule differs.
    assert both.letterbox.maps == pytest.approx(both.maps, abs=0.03) and both.letterbox.map > 0.1


def test_events_get_the_validator(place):
    events, seen = Events(), []
    for event in EVENTS:
        events.add(event, lambda about, event=event: seen.append((event, about, about.metrics)))
    metrics = val(events=events, plots=True)
    assert [event for event, *_ in seen] == [
        "on_val_start",
        *["on_val_batch_start", "on_val_batch_end"] * 2,
        "on_val_end",
    ]
    assert len({id(about) for _, about, _ in seen}) == 1 and seen[-1][2] is metrics and seen[0][2] is None
    about = seen[0][1]
    assert about.save_dir == metrics.save_dir
    assert len(about.dataloader) == 2
    assert about.args.imgsz == 64
    assert about.device.type == "cpu"


@pytest.mark.parametrize(
    "keys, says",
    [
        ({"split": "test"}, "no split 'test'; it has train, val"),
        ({"classes": [7]}, "expected indices from 0 to 2"),
        ({"data": "nowhere.yaml"}, "is not there"),
        ({"imgsz": [64, 32]}, "take one side"),
    ],
)
def test_mistakes_leave_no_folder(place, keys, says):
    with pytest.raises(UserError, match=says):
        val(**keys)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "keys, says", [({}, "has no label: there is nothing"), ({"classes": 1}, "has no label of classes=1")]
)
def test_a_split_without_labels_is_not_measured(place, keys, says):
    for path in (place / "data/labels/val").iterdir():
        path.write_text("" if not keys else "0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(UserError, match=says):
        val(**keys)
    assert not Path("runs").exists()


def test_a_split_without_labels_gives_its_predictions_alone(place, capsys):
    for path in (place / "data/labels/val").iterdir():
        path.unlink()
    metrics = val(save_json=True)
    told = capsys.readouterr()
    assert files(metrics.save_dir) == {
        "predictions.json",
        *(f"val_batch{n}_{kind}.jpg" for n in (0, 1) for kind in ("labels", "pred")),
    }
    assert len(json.loads(Path("runs/detect/val/predictions.json").read_text())) == 4
    assert "AP" not in told.out and "no usable label" in told.err and metrics.stats["AP"] != metrics.stats["AP"]


def test_a_callback_that_raises_leaves_no_empty_folder(place):
    events = Events()
    events.add("on_val_start", lambda validator: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        val(events=events)
    assert list(Path("runs/detect").iterdir()) == []


def test_metrics_of_the_object_that_scripts_use(place):
    YOLO("small.yaml").train(data="data/data.yaml", scale="n", imgsz=64, batch=4, epochs=1, device="cpu", plots=False)
    model = YOLO("runs/detect/train/weights/best.pt")
    metrics = model.val(data="data/data.yaml", device="cpu", plots=False, save_json=True)
    assert model.metrics is metrics and pickle.loads(pickle.dumps(metrics)).results_dict == metrics.results_dict
    assert metrics.save_dir == Path("runs/detect/val") and (metrics.save_dir / "predictions.json").is_file()


@pytest.mark.skipif(not (SHARED / "datasets/bccd").is_dir(), reason="the BCCD images are not here")
def test_the_recorded_numbers_of_bccd():
    metrics = YOLO(SHARED / "checkpoints/v1-n-bccd-best.pt").val(
        data=SHARED / "datasets/bccd/data.yaml", imgsz=320, device="cpu", letterbox_ap=True, **QUIET
    )
    assert metrics.ap == pytest.approx(0.531, abs=6e-4)  # recorded with three digits
    assert metrics.letterbox.map == pytest.approx(0.515, abs=6e-4)


@pytest.mark.skipif(not (SHARED / "datasets/nuclei").is_dir(), reason="the nuclei images are not here")
def test_ap_on_the_letterboxed_input_is_the_recorded_one_of_nuclei():
    metrics = YOLO(SHARED / "checkpoints/v1-n-seg-nuclei-best.pt").val(
        data=SHARED / "datasets/nuclei/data.yaml", imgsz=256, device="cpu", letterbox_ap=True, **QUIET
    )
    assert (metrics.letterbox.map, metrics.letterbox.map50) == pytest.approx((0.389, 0.738), abs=6e-4)


class Blind(BrightBoxes):
    """Finds nothing at its first look at a batch."""

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        return images * (len(self.seen) % 4 not in (1, 2))  # plain, then the three looks of augmentation: 1, 0.83, 0.67


def test_augmented_validation_merges_what_the_copies_show(place):
    plain, merged = val(Blind(), augment=False, save_json=True, **QUIET), val(model := Blind(), augment=True, **QUIET)
    assert merged.ap50 > 0.9 and plain.ap50 == 0
    assert [shape[2] for shape in model.seen] == [64] * 8  # 0.83 and 0.67 of 64 px are padded to 64
    sure = val(augment=True, **QUIET)
    assert sure.box.map50 == pytest.approx(val(**QUIET).box.map50, abs=0.02)  # mirrored boxes come back to their places
