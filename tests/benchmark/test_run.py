"""The benchmark: all candidates are measured alike, a failure is a record, and the numbers agree with those of val."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from pathlib import Path

import pytest
import torch

import bitfalcon_plugin.benchmark.candidates as candidates
import bitfalcon_plugin.benchmark.run as bench
import bitfalcon_plugin.benchmark.trial as trials
import bitfalcon_plugin.benchmark.turns as turns
from bitfalcon_plugin import YOLO
from bitfalcon_plugin.benchmark.candidates import REFERENCE, Candidate, list_candidates
from bitfalcon_plugin.benchmark.quiet import Quiet
from bitfalcon_plugin.benchmark.report import markdown
from bitfalcon_plugin.benchmark.trial import Trial, run_trial
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.export import kept_export
from bitfalcon_plugin.export.formats import ExportFormat, Machines
from bitfalcon_plugin.models.inference.threads import threads
from tests.helpers import classed, outlined, posed, turned
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.exports import KEYPOINTS, needs_openvino, save, tiny_classify, tiny_obb, tiny_pose, tiny_segment
from tests.helpers.tiny_models import CONV, lived, small_model

CPU = torch.device("cpu")


def settings(**keys):
    return load_settings({"mode": "benchmark", **keys})


@pytest.fixture()
def weights(place):
    """A checkpoint of the small graph whose batch norms do something."""
    torch.manual_seed(0)
    yolo = YOLO("small.yaml")
    lived(yolo.model)
    yolo.model.names.update({0: "red", 1: "green", 2: "blue"})
    yolo.save("best.pt")
    return place / "best.pt"


@pytest.fixture()
def quick(monkeypatch):
    """Few rounds in which nobody is too slow, and trials that start no process."""
    monkeypatch.setattr(bench, "ROUNDS", 3)
    monkeypatch.setattr(bench, "WARMUP", 0)
    monkeypatch.setattr(bench, "measure_quiet", lambda: Quiet(2, 2.0))
    monkeypatch.setattr(turns, "MAX_SLOWDOWN", math.inf)
    monkeypatch.setattr(bench, "run_trial", lambda candidate, shape, device: Trial(1.0, 0.5, 0.25, 0.1, 123_000_000))


def test_the_reference_runs_first_and_format_restricts_the_rest():
    names = [candidate.name for candidate in list_candidates(settings(), CPU)]
    assert (
        names[0] == REFERENCE
        and names[-1].startswith("compile")
        and {"onnx", "torchscript", "openvino int8", "pt2 16 bits"} <= set(names)
    )
    assert not [name for name in names if "fp16" in name] and len(names) == len(set(names))
    assert "torch fp16 channels_last" in [
        candidate.name for candidate in list_candidates(settings(), torch.device("cuda"))
    ]
    assert {candidate.family for candidate in list_candidates(settings(format="[onnx, Torch]"), CPU)} == {
        "torch",
        "onnx",
    }
    assert [candidate.name for candidate in list_candidates(settings(format="compile"), CPU)][0] == REFERENCE
    assert [each.name for each in list_candidates(settings(format="auto"), CPU)] == [REFERENCE, "engine=auto"]
    with pytest.raises(UserError, match="benchmark knows torch, compile, auto, onnx.*Did you mean 'torch'"):
        list_candidates(settings(format="trch"), CPU)
    with pytest.raises(UserError, match="not written here"):
        list_candidates(settings(format="saved_model"), CPU)


def test_the_table_holds_what_val_measures_and_the_boxes_agree(place, quick, capsys):
    YOLO("small.yaml").train(
        scale="n",
        data="data/data.yaml",
        imgsz=64,
        epochs=12,
        batch=4,
        nbs=4,
        plots=False,
        optimizer="SGD",
        lr0=0.05,
        warmup_epochs=1.0,
        warmup_floor=0,
        mosaic=0.0,
        device="cpu",
        verbose=False,
        name="t",
    )
    best = "runs/detect/t/weights/best.pt"
    bench = YOLO(best).benchmark(data="data/data.yaml", imgsz=64, format="torch,torchscript", plots=False, device="cpu")
    names = [row.name for row in bench.rows]
    assert names == [
        "torch fp32 NCHW",
        "torch fp32 channels_last",
        "torch bf16 channels_last",
        "torch as predict runs it",
        "torchscript",
        "torchscript 16 bits",
    ]
    ran = {row.name: row for row in bench.rows if not row.reason}
    assert set(names[:4]) <= set(ran)
    metrics = YOLO(best).val(data="data/data.yaml", imgsz=64, plots=False, rect=False, device="cpu")
    assert metrics.ap > 0
    for name in (REFERENCE, "torch fp32 channels_last", "torch as predict runs it", "torchscript"):
        row = ran[name]
        assert row.numbers == pytest.approx({"AP": metrics.ap, "AP50": metrics.ap50}, abs=0.02)
        assert row.matched == row.boxes > 0 and row.pixels < 0.05 and row.score < 1e-3
        assert row.latency.count == 3 and row.load == 0.5 and row.memory == 123_000_000
    assert ran[REFERENCE].faster == 1.0 and ran[REFERENCE].pixels == 0
    assert ran["torchscript"].bytes != ran[REFERENCE].bytes > 100_000
    text, folder = capsys.readouterr().out, Path("runs/detect/benchmark")
    assert (folder / "benchmark.md").read_text() == markdown(bench) and markdown(bench) in text
    content = json.loads((folder / "benchmark.json").read_text())
    assert [row["name"] for row in content["rows"]] == names and content["facts"]["torch"] == torch.__version__
    assert not list(Path(best).parent.glob("*.torchscript"))  # exports were made elsewhere, and are gone


FURTHER = {
    "segment": {"prototypes", "coefficients"},
    "classify": set(),
    "pose": {"points", "visibilities"},
    "obb": {"angles"},
}  # what is compared besides boxes and scores


@pytest.mark.parametrize("task", FURTHER)
def test_models_of_other_tasks_have_rows_and_numbers(tmp_path, monkeypatch, quick, task):
    monkeypatch.chdir(tmp_path)
    network, lay_out, data = {
        "segment": (tiny_segment(outlined.NAMES), outlined.lay_out, "data/data.yaml"),
        "classify": (tiny_classify(classed.CLASSES), classed.lay_out, "data"),
        "pose": (
            tiny_pose(posed.KEYS["names"], **{key: posed.KEYS[key] for key in (*KEYPOINTS, "kpt_shape")}),
            posed.lay_out,
            "data/data.yaml",
        ),
        "obb": (tiny_obb(outlined.NAMES), turned.lay_out, "data/data.yaml"),
    }[task]
    lay_out(tmp_path)
    model = YOLO(save(network, tmp_path / "best.pt"))
    table = model.benchmark(data=data, imgsz=64, format="torch,torchscript", plots=True, device="cpu")
    metrics = model.val(data=data, imgsz=64, plots=False, rect=False, device="cpu")
    ran = {row.name: row for row in table.rows if not row.reason}
    assert {REFERENCE, "torch as predict runs it", "torchscript", "torchscript 16 bits"} <= set(ran)
    for row in (ran[REFERENCE], ran["torchscript"]):
        assert row.numbers == pytest.approx(dict(metrics.headline), abs=1e-3)
        assert row.matched == row.boxes > 0 and row.score < 1e-3
        assert set(row.further) == FURTHER[task] and all(value < 1e-2 for value in row.further.values())
    text = markdown(table)
    assert all(f"| {name} |" in text for name in metrics.headline)
    assert all(f"largest difference of {name}" in text for name in FURTHER[task])
    assert ("images matched" in text) == (task == "classify") != ("box difference" in text)


def test_a_candidate_that_fails_is_a_record_with_the_reason_and_not_the_end(weights, quick, monkeypatch, capsys):
    original = bench.open_candidate

    def opened(candidate, device):
        if candidate.precision == "bfloat16":
            raise RuntimeError("no kernel\nfor this")
        engine = original(candidate, device)
        if candidate.name == "torchscript":
            engine._run = lambda images, calls=[]: (
                calls.append(1) or (1 / 0 if len(calls) > 1 else torch.zeros(1, 7, 5))
            )
        return engine

    monkeypatch.setattr(bench, "open_candidate", opened)
    assert (
        main(["benchmark", "model=best.pt", "imgsz=64", "format=torch,torchscript", "plots=False", "device=cpu"]) == 0
    )
    rows = {row["name"]: row for row in json.loads(Path("runs/detect/benchmark/benchmark.json").read_text())["rows"]}
    assert rows["torch bf16 channels_last"]["reason"] == "RuntimeError: no kernel for this"
    assert "division by zero" in rows["torchscript"]["reason"] and rows["torchscript"]["latency"] is None
    assert rows["torch fp32 channels_last"]["latency"]["count"] == 3
    out = capsys.readouterr().out
    assert (
        "Not, or not wholly, measured:" in out and "- torch bf16 channels_last: RuntimeError: no kernel for this" in out
    )


def test_an_export_beside_the_weights_is_taken_where_it_is_theirs(weights, monkeypatch, tmp_path_factory):
    made, scratch = [], tmp_path_factory.mktemp("scratch") / "best.pt"
    YOLO("best.pt").export(format="torchscript", imgsz=64)
    beside = weights.with_suffix(".torchscript")
    monkeypatch.setattr(candidates, "run_export", lambda model, settings, source, given: made.append(settings))

    def path(origin=weights, options=(), imgsz=64, batch=1) -> str:
        candidate = Candidate("x", "torchscript", "float32", options=options)
        return candidates.with_file(
            candidate, scratch, origin, YOLO("best.pt").model, settings(imgsz=imgsz, batch=batch), CPU
        ).path

    assert path() == str(beside) and not made
    for count, keys in enumerate(
        ({"imgsz": 96}, {"batch": 2}, {"options": ("half",)}, {"origin": weights.with_name("other.pt")}), 1
    ):
        assert Path(path(**keys)).parent == scratch.parent and len(made) == count
    assert made[0].imgsz == 96 and made[1].batch == 2 and made[2].half and made[0].format == "torchscript"
    os.utime(beside, (0, 0))  # of older weights
    assert path() != str(beside)
    beside.write_bytes(b"no archive")
    assert path() != str(beside) and len(made) == 6


def test_a_format_of_other_machines_says_which(weights, monkeypatch):
    elsewhere = Machines("machines of tomorrow", lambda: False)
    monkeypatch.setitem(candidates.EXPORT_FORMATS, "engine", ExportFormat(".engine", runs_on=elsewhere))
    with pytest.raises(UserError, match="format=engine: its files are run on machines of tomorrow only"):
        candidates.with_file(Candidate("x", "engine", "float32"), weights, weights, None, settings(), CPU)


@pytest.mark.parametrize(
    "tokens, words",
    [
        ([], ["needs model="]),
        (["model=small.yaml"], ["does not end in .pt"]),
        (["model=none.pt"], ["none.pt"]),
        (["model=best.pt", "format=oxxn"], ["oxxn", "benchmark knows"]),
        (["model=best.pt", "batch=-1"], ["batch=-1"]),
        (["model=best.pt", "data=nowhere.yaml"], ["nowhere.yaml"]),
        (["model=best.pt", "data=other.yaml"], ["cat", "red"]),
        (["model=best.pt", "imgsz=[64,96]", "data=data/data.yaml"], ["give one side"]),
    ],
)
def test_mistakes_are_told_and_leave_no_folder(weights, capsys, tokens, words):
    Path("other.yaml").write_text(
        Path("data/data.yaml").read_text().replace("red", "cat").replace("images/", "data/images/")
    )
    assert main(["benchmark", *tokens]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in words) and "fault of" not in err
    assert not Path("runs").exists()


def test_a_trial_in_a_process_of_its_own_tells_time_and_memory(weights):
    trial = run_trial(Candidate("x", "torch", "float32", str(weights), "fp32 channels_last"), (2, 3, 64, 64), CPU)
    assert min(trial.start, trial.load, trial.first_run, trial.second_run) > 0
    assert trial.memory == 0 or 50e6 < trial.memory < 20e9


@pytest.fixture()
def fork(monkeypatch):
    """Processes that start with torch imported, for trials whose time does not matter."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(trials.multiprocessing, "get_context", lambda method: fork)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not fork")
def test_the_reason_of_a_failure_comes_out_of_the_process(fork):
    with pytest.raises(UserError, match="none.pt"):
        run_trial(Candidate("x", "torch", "float32", "none.pt", "fp32 NCHW"), (1, 3, 64, 64), CPU)


def test_a_trial_that_takes_too_long_is_ended(monkeypatch):
    candidate = Candidate("x", "torch", "float32", "best.pt", "fp32 NCHW")
    monkeypatch.setattr(trials, "TIMEOUT", 0.05)
    with pytest.raises(UserError, match="not ready after"):
        run_trial(candidate, (1, 3, 64, 64), CPU)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not fork")
def test_a_trial_that_dies_is_told(fork, monkeypatch):
    candidate = Candidate("x", "torch", "float32", "best.pt", "fp32 NCHW")
    monkeypatch.setattr(trials, "_child", os.abort)  # an argument too many: the process ends before it says anything
    with pytest.raises(UserError, match="ended with code 1"):
        run_trial(candidate, (1, 3, 64, 64), CPU)


@pytest.mark.parametrize("given, expected", [({}, [(1, 1), (8, 1), (8, 3)]), ({"batch": 2}, [(2, 1)])])
def test_one_and_eight_images_on_one_and_all_threads_unless_a_batch_is_given(weights, quick, given, expected):
    with threads(3):
        bench = YOLO("best.pt").benchmark(imgsz=64, format="torch", plots=False, device="cpu", **given)
    assert [(load.batch, load.threads) for load in bench.workloads] == expected
    for load in bench.workloads:
        assert [row.name for row in load.rows] == [row.name for row in bench.rows if not row.reason]
        assert all(row.latency.count == 3 for row in load.rows)


def test_engine_auto_is_a_row_and_torch_computes_without_openvino(weights, quick, monkeypatch):
    monkeypatch.setattr(kept_export, "find_spec", lambda name: None)
    bench = YOLO("best.pt").benchmark(imgsz=64, batch=1, format="auto", plots=False, device="cpu")
    row = {row.name: row for row in bench.rows}["engine=auto"]
    assert row.runtime.startswith("torch") and row.latency.count == 3 and row.pixels < 0.05


@needs_openvino
def test_engine_auto_is_openvino_where_that_is_installed(weights, quick, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path_factory.mktemp("cache")))
    bench = YOLO("best.pt").benchmark(imgsz=64, batch=2, format="auto", plots=False, device="cpu")
    row = {row.name: row for row in bench.rows}["engine=auto"]
    assert row.runtime.startswith("OpenVINO") and row.latency.count == 3 and row.matched == row.boxes > 0


def test_a_network_is_decoded_as_the_detector_is():
    torch.manual_seed(0)
    model = lived(small_model(CONV))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.decode(model(images))
        network = candidates.Network(model, CPU, torch.float32, torch.channels_last)
        assert (network.decode(network(images)) - expected).abs().max() < 1e-3
    assert (
        network.names == model.names and network.eval() is network and next(network.parameters()).dtype == torch.float32
    )
