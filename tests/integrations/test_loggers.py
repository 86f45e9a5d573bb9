"""The adapters of loggers: against the packages in their offline modes where installed, otherwise against recorders."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from PIL import Image

from bitfalcon_plugin.train.loggers import PACKAGES, LoggedRun
from tests.helpers.paths import ROOT

PARAMETERS = {"epochs": 2, "lr0": 0.01, "data": "data.yaml", "classes": [0, 1], **{f"more{i}": i for i in range(120)}}
NUMBERS = {"train/box_loss": 1.5, "metrics/mAP50": 0.25, "metrics/mAP50(M)": 0.125}
TOLD = "WANDB_MODE WANDB_API_KEY MLFLOW_TRACKING_URI CLEARML_CONFIG_FILE CLEARML_API_HOST CLEARML_API_ACCESS_KEY "
TOLD += "CLEARML_OFFLINE_MODE COMET_API_KEY"


@pytest.fixture()
def run(tmp_path, monkeypatch) -> LoggedRun:
    """A run's folder with a picture and weights; nothing on this machine tells a logger of a server."""
    for name in TOLD.split():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "runs/mine/first"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights/best.pt").write_bytes(b"weights")
    Image.new("RGB", (8, 8)).save(folder / "results.png")
    return LoggedRun("mine", "first", folder, PARAMETERS)


def logged(name: str, run: LoggedRun, id: str = "", epochs: tuple[int, ...] = (1, 2)) -> str:
    logger = importlib.import_module(f"bitfalcon_plugin.integrations.{name}").Logger()
    id = logger.start(run, id)
    for number in epochs:
        logger.epoch(number, NUMBERS)
    logger.end({"fitness": 0.5}, [run.folder / "results.png"], run.folder / "weights/best.pt")
    return id


def test_every_adapter_is_under_60_lines():
    for name in PACKAGES:
        assert len((ROOT / f"bitfalcon_plugin/integrations/{name}.py").read_text().splitlines()) < 60, name


def test_tensorboard_reads_what_was_written(run):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged("tensorboard", run, epochs=())
    assert sorted(os.listdir(run.folder)) == ["results.png", "weights"]  # nothing before the first epoch
    assert logged("tensorboard", run, epochs=(1, 2, 3)) == ""
    logged("tensorboard", run, epochs=(3,))  # resumed: epoch 3 was lost and is trained again
    found = EventAccumulator(str(run.folder)).Reload()
    assert sorted(found.Tags()["scalars"]) == sorted(NUMBERS)
    assert [(event.step, event.value) for event in found.Scalars("train/box_loss")] == [(1, 1.5), (2, 1.5), (3, 1.5)]


def test_mlflow_keeps_a_run_in_files(run):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    id = logged("mlflow", run)
    from mlflow.tracking import MlflowClient

    client = MlflowClient((run.folder.parent / "mlruns").as_uri())
    found = client.get_run(id)
    assert found.info.run_name == "first" and found.info.status == "FINISHED"
    assert found.data.params == {key: str(value) for key, value in PARAMETERS.items()}
    assert found.data.metrics == {"train/box_loss": 1.5, "metrics/mAP50": 0.25, "metrics/mAP50_M": 0.125}
    assert {each.path for each in client.list_artifacts(id, "weights")} == {"weights/best.pt"}
    assert {each.path for each in client.list_artifacts(id, "figures")} == {"figures/results.png"}
    assert logged("mlflow", run, id, epochs=(3,)) == id
    assert [each.step for each in client.get_metric_history(id, "train/box_loss")] == [1, 2, 3]


def test_wandb_writes_an_offline_run(run):
    pytest.importorskip("wandb", reason="wandb is not installed")
    id = logged("wandb", run)
    (record,) = run.folder.glob("wandb/offline-run-*/run-*.wandb")
    assert id in record.name
    texts = (b"train/box_loss", b"lr0", b"figures/results", b"fitness", b"first", b"mine")
    for _ in range(200):  # its own process may still write
        if all(text in record.read_bytes() for text in texts):
            break
        time.sleep(0.1)
    assert all(text in record.read_bytes() for text in texts)
    assert logged("wandb", run, id, epochs=(3,)) == id


def held(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as file:
        return {Path(name).name: file.read(name) for name in file.namelist()}


def test_clearml_writes_an_offline_session(run):
    pytest.importorskip("clearml", reason="clearml is not installed")
    assert logged("clearml", run) == ""  # nothing that a resumed run could go on with
    (archive,) = Path(os.environ["HOME"]).rglob("*.zip")
    content = held(archive)
    assert "best.pt" in content and any(name.startswith("figures_results") for name in content)
    task = json.loads(content["task.json"])
    assert task["hyperparams"]["settings"]["lr0"]["value"] == "0.01" and task["name"] == "first"
    scalars = [json.loads(line) for line in content["metrics.jsonl"].decode().splitlines()]
    values = [each for line in scalars for each in line if each["type"] == "training_stats_scalar"]
    assert {(each["iter"], each["metric"], each["variant"]): each["value"] for each in values}[
        2, "train", "box_loss"
    ] == 1.5


def test_comet_writes_an_offline_archive(run):
    pytest.importorskip("comet_ml", reason="comet_ml is not installed")
    id = logged("comet", run)
    content = held(run.folder / f"{id}.zip")
    messages = [json.loads(line) for line in content["messages.json"].decode().splitlines()]
    text = content["messages.json"].decode()
    assert b"weights" in content.values() and "fitness" in text and "lr0" in text and "results" in text
    metrics = [each["payload"]["metric"] for each in messages if each["type"] == "metric_msg"]
    steps = {each["step"]: each["metricValue"] for each in metrics if each["metricName"] == "train/box_loss"}
    assert steps == {1: 1.5, 2: 1.5}


@pytest.fixture()
def fake(monkeypatch):
    """Replace the packages of the loggers by recorders, also where they are installed."""
    fakes = {}
    for name in ("wandb", "mlflow", "mlflow.entities", "mlflow.tracking", "clearml", "comet_ml"):
        fakes[name] = MagicMock(name=name)
        monkeypatch.setitem(sys.modules, name, fakes[name])
    fakes["clearml"].Task.is_offline.return_value = False
    return fakes


@pytest.mark.parametrize("told", [False, True])
def test_wandb_is_online_only_where_it_is_told(run, fake, monkeypatch, told):
    if told:
        monkeypatch.setenv("WANDB_API_KEY", "x")
    logged("wandb", run, "abc")
    given = fake["wandb"].init.call_args.kwargs
    assert given["mode"] == (None if told else "offline") and (given["project"], given["name"]) == ("mine", "first")
    assert given["config"] == PARAMETERS and given["id"] == "abc" and given["resume"] == "allow"
    record = fake["wandb"].init.return_value
    assert [call.kwargs.get("step") for call in record.log.call_args_list] == [1, 2, None]
    record.log_artifact.assert_called_once()
    record.finish.assert_called_once_with(exit_code=0)


def test_wandb_is_told_by_its_login(run, fake):
    home = Path(os.environ["HOME"])
    home.mkdir()
    (home / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    (home / ".netrc").chmod(0o600)
    logged("wandb", run)
    assert fake["wandb"].init.call_args.kwargs["mode"] is None


@pytest.mark.parametrize("uri", ["", "http://tracking:5000"])
def test_mlflow_has_the_address_that_it_is_told_or_a_folder(run, fake, monkeypatch, uri):
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    logged("mlflow", run)
    client = fake["mlflow.tracking"].MlflowClient
    client.assert_called_once_with(uri or (run.folder.parent / "mlruns").as_uri())
    calls = client.return_value.method_calls
    assert [call[0] for call in calls].count("log_batch") == 4 and os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert calls[-1][0] == "set_terminated" and calls[-1][1][1] == "FINISHED"


@pytest.mark.parametrize("told", [False, True])
def test_clearml_is_online_only_where_it_is_told(run, fake, monkeypatch, told):
    if told:
        monkeypatch.setenv("CLEARML_API_HOST", "http://api:8008")
    logged("clearml", run, "abc" if told else "")
    task = fake["clearml"].Task
    assert task.set_offline.called is not told
    given = task.init.call_args.kwargs
    assert given["continue_last_task"] == ("abc" if told else False) and given["auto_connect_frameworks"] is False
    record = task.init.return_value
    record.connect.assert_called_once_with(PARAMETERS, name="settings")
    scalars = record.get_logger.return_value.report_scalar.call_args_list
    assert [call.args for call in scalars][0] == ("train", "box_loss", 1.5, 1) and len(scalars) == 6
    record.upload_artifact.assert_called_once()
    record.close.assert_called_once()


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("id", ["", "abc"])
def test_comet_is_online_only_where_it_is_told(run, fake, monkeypatch, told, id):
    if told:
        monkeypatch.setenv("COMET_API_KEY", "x")
    logged("comet", run, id)
    kinds = ("Experiment", "ExistingExperiment", "OfflineExperiment", "ExistingOfflineExperiment")
    used = [kind for kind in kinds if getattr(fake["comet_ml"], kind).called]
    assert used == [kinds[2 * (not told) + bool(id)]]
    record = getattr(fake["comet_ml"], used[0])
    assert record.call_args.kwargs.get("previous_experiment", "") == id
    record.return_value.log_parameters.assert_called_once_with(PARAMETERS)
    record.return_value.log_image.assert_called_once_with(str(run.folder / "results.png"), name="results")
    record.return_value.end.assert_called_once()


# Prints the addresses that a logger opens, those of this machine left out; a last one shows that they are seen.
NETWORK = """
import socket, sys
seen, own = [], (None, "localhost", "127.0.0.1", "::1", b"localhost")
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        where = arguments if event == "socket.getaddrinfo" else arguments[1]
        if isinstance(where, tuple) and where[0] not in own:
            seen.append(str(where[0]))
sys.addaudithook(hook)
from pathlib import Path
from unittest.mock import MagicMock
from tests.integrations.test_loggers import logged
from bitfalcon_plugin.train.loggers import LoggedRun
logged(sys.argv[1], LoggedRun("mine", "first", Path(sys.argv[2]), {"epochs": 2}))
with socket.socket() as last:
    last.setblocking(False)
    last.connect_ex(("192.0.2.1", 9))
print(seen)
"""


@pytest.mark.parametrize("name", PACKAGES)
def test_no_network_address_is_opened_unless_the_logger_is_told_one(run, name):
    pytest.importorskip(PACKAGES[name], reason=f"{PACKAGES[name]} is not installed")
    command = [sys.executable, "-c", NETWORK, name, str(run.folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "['192.0.2.1']", done.stdout[-3000:]
