"""train/distributed.py and train/launch.py.

Two processes compute what one computes that takes both halves of a batch; and processes end in all kinds of ways.
"""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from bitfalcon_plugin.config.devices import select_devices
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.config.signals import Stopped
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.detector import odd_norms
from bitfalcon_plugin.tasks.detect import detection_loss
from bitfalcon_plugin.train import launch as module
from bitfalcon_plugin.train.distributed import LostPeer, World, check_batch, join
from bitfalcon_plugin.train.launch import launch
from tests.helpers.endings import die, make_a_mistake, raise_a_fault, wait_for_signal
from tests.helpers.labels import targets_of, total
from tests.helpers.small_runs import quick_launch
from tests.helpers.tiny_models import CONV, small_model

BATCHES, EACH = 2, 2  # batches gathered before a step, images of a rank's share


@pytest.fixture(autouse=True)
def no_world(monkeypatch):
    """Tests start outside of any torchrun."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def networks():
    """By name: the real thing, and a graph with a row that nobody reads and a frozen one."""
    torch.manual_seed(5)
    dead = small_model(CONV, CONV, [0, 1, "Conv", [8, 3, 1]], [1, 1, "Conv", [32, 3, 2]])
    dead.model[0].requires_grad_(False)
    return {"yolov12n": build("yolov12.yaml", "n", nc=3), "dead row": dead}


def share_of(batch: int, rank: int):
    """Images (2, 3, 64, 64) and their targets; the second rank has more boxes than the first."""
    generator = torch.Generator().manual_seed(10 * batch + rank)
    images = torch.rand(EACH, 3, 64, 64, generator=generator)
    corner = torch.rand(2 + 3 * rank, 2, generator=generator) * 30
    boxes = torch.cat((corner, corner + 10 + torch.rand(corner.shape, generator=generator) * 20), 1)
    owner = (torch.arange(len(boxes)) % EACH).sort().values
    return images, targets_of(boxes, torch.arange(len(boxes)) % 2, owner)


def backward(model, network, batch: int, rank: int, scale=lambda total: total):
    images, targets = share_of(batch, rank)
    raw = network(images)
    losses = detection_loss(raw, targets, sizes=raw.sizes, strides=model.strides)
    scale(total(losses, EACH)).backward()
    return total(losses, EACH).detach()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def train_some(world: World) -> dict:
    """The results of training each network on this process's half of each batch.

    losses, stepped: losses, and gradients after BATCHES batches. alone, waiting: gradients of one more batch, before
    and after they are averaged. buffers: before and after rank 0's are sent.
    """
    results = {}
    for name, model in networks().items():
        network, losses = world.wrap(model.train()), []
        for batch in range(BATCHES):
            with contextlib.nullcontext() if batch + 1 == BATCHES else world.accumulating(network):
                losses.append(world.mean(backward(model, network, batch, world.rank, world.scale_loss)) * world.size)
        stepped = gradients(model)
        model.zero_grad()
        with world.accumulating(network):
            backward(model, network, BATCHES, world.rank, world.scale_loss)
        alone = gradients(model)
        world.average_gradients(model)
        waiting = gradients(model)
        buffers = [{key: value.clone() for key, value in model.named_buffers()}]
        world.broadcast_buffers(model)
        buffers.append(dict(model.named_buffers()))
        results[name] = {
            "losses": losses,
            "stepped": stepped,
            "alone": alone,
            "waiting": waiting,
            "buffers": buffers,
            "unused": getattr(network, "find_unused_parameters", None),
        }
    return results


def exchange_and_train(sent: dict) -> list:
    """The values that both ranks exchanged; results of training go to files. The process group is made twice."""
    with join(select_devices("cpu")) as world:
        tensor = torch.tensor([1.0, world.rank])
        plain = {
            "world": world,
            "sent": sent["seed"],
            "gather": world.gather([world.rank, "x"] * (world.rank + 1)),
            "any": [world.any(world.rank == 1), world.any(True), world.any(False)],
            "all": [world.all(world.rank == 1), world.all(True), world.all(False)],
            "same": world.broadcast({"best": world.rank}),
            "mean": world.mean(tensor),
            "kept": tensor,
        }
        world.barrier()
    with join(select_devices("cpu")) as world:
        torch.save(train_some(world), Path(sent["folder"]) / f"{world.rank}.pt")
        return world.gather([plain])


@pytest.fixture()
def one_thread():
    """Compute with one thread, as each process does: with more threads sums come in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Of rank 0 and rank 1: (plain values, results of training)."""
    folder = tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patch, quick_launch():
        patch.setenv("OMP_NUM_THREADS", "1")
        plain = launch(2, exchange_and_train, {"seed": 3, "folder": str(folder)})
    return [(values, torch.load(folder / f"{rank}.pt")) for rank, values in enumerate(plain)]


def test_values_are_exchanged(both) -> None:
    for rank, (plain, _) in enumerate(both):
        assert plain["world"] == World(rank, 2, rank) and plain["world"].main == (rank == 0) and plain["sent"] == 3
        assert plain["gather"] == [0, "x", 1, "x", 1, "x"]
        assert plain["all"] == [False, True, False]
        assert plain["any"] == [True, True, False] and plain["same"] == {"best": 0}
        assert plain["mean"].tolist() == [1.0, 0.5] and plain["kept"].tolist() == [1.0, rank]


@pytest.mark.parametrize("name", ["yolov12n", "dead row"])
def test_two_processes_are_one_that_takes_both_halves(both, name, one_thread) -> None:
    # Each rank starts with rank 0's weights, and normalises its half of a batch by itself.
    model = networks()[name].train()
    losses = [sum(backward(model, model, batch, rank) for rank in (0, 1)) for batch in range(BATCHES)]
    expected = gradients(model)
    model.zero_grad()
    for rank in (0, 1):
        backward(model, model, BATCHES, rank)
    waiting = gradients(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} - set(expected) == (
        {f"model.2.{part}" for part in ("conv.weight", "bn.weight", "bn.bias")} if name == "dead row" else set()
    )
    for _, trained in both:
        found = trained[name]
        assert found["unused"] is (name == "dead row")
        torch.testing.assert_close(found["losses"], losses, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["stepped"], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["waiting"], waiting, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(both[0][1][name]["stepped"][key], both[1][1][name]["stepped"][key]) for key in expected)
    alone = [trained[name]["alone"] for _, trained in both]  # not shared: each its own, twice as large
    torch.testing.assert_close(
        {key: (alone[0][key] + alone[1][key]) / 2 for key in waiting}, waiting, rtol=1e-5, atol=1e-5
    )
    assert any(not torch.allclose(alone[0][key], alone[1][key]) for key in waiting)


def test_statistics_are_those_of_the_first_process(both) -> None:
    (before, after), (other_before, other_after) = (trained["yolov12n"]["buffers"] for _, trained in both)
    moved = [key for key in before if not torch.equal(before[key], other_before[key])]
    assert moved and all(key.endswith(("running_mean", "running_var")) for key in moved)
    assert all(torch.equal(before[key], found[key]) for found in (after, other_after) for key in before)


def test_one_process_is_left_alone() -> None:
    model, total, tensor = small_model(CONV), torch.tensor(2.0), torch.ones(2)
    with join([torch.device("cpu")]) as world:
        assert world == World() and world.main
        assert world.wrap(model) is model and world.synchronise_norms(model) is model
        assert world.scale_loss(total) is total and world.broadcast(total) is total
        assert world.gather([1, 2]) == [1, 2] and world.any(True) and not world.any(False)
        assert world.all(True) and not world.all(False)
        assert world.mean(tensor) is tensor
        with world.accumulating(model):
            world.barrier()
            world.average_gradients(model)
            world.broadcast_buffers(model)
    assert not torch.distributed.is_initialized()


def test_synchronised_norms_keep_tensors_and_names() -> None:
    model = networks()["yolov12n"]
    model.model[0].bn.eps = 0.5  # as a file of another maker may have it
    average, keys = copy.deepcopy(model), list(model.state_dict())
    tensors = list(map(id, (*model.parameters(), *model.buffers())))
    assert World(0, 2).synchronise_norms(model) is model  # on a CPU nothing changes
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # as synchronise_norms does on GPUs
    assert converted is model and sum(isinstance(m, nn.SyncBatchNorm) for m in model.modules()) > 50
    assert list(model.state_dict()) == keys == list(average.state_dict())
    assert list(map(id, (*model.parameters(), *model.buffers()))) == tensors
    assert odd_norms(average) == {"model.0.bn": [0.5, 0.03]} and model.model[0].bn.eps == 0.5
    average.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    "batch, size, words",
    [
        (15, 2, "multiple of 2: for example batch=16"),
        (1, 2, "batch=2"),
        (17, 4, "batch=16"),
        (-1, 2, "for example batch=32"),
        (0.7, 2, "need a number"),
    ],
)
def test_a_batch_that_devices_cannot_share(batch, size, words) -> None:
    with pytest.raises(UserError, match=words):
        check_batch(batch, size)
    check_batch(batch, 1)
    check_batch(16, size)


WHOLE = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    "environment, words",
    [
        ({"RANK": "1"}, "RANK are set, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not"),
        ({key: WHOLE[key] for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}, "MASTER_ADDR, MASTER_PORT not"),
        ({**WHOLE, "RANK": "2"}, "RANK=2, WORLD_SIZE=2"),
        ({**WHOLE, "WORLD_SIZE": "two"}, "WORLD_SIZE=two"),
        ({**WHOLE, "LOCAL_RANK": "-1"}, "LOCAL_RANK=-1"),
    ],
)
def test_an_environment_set_by_half(monkeypatch, environment, words) -> None:
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(UserError, match=f"{words}.*torchrun"), join([torch.device("cpu")]):
        raise AssertionError("joined")


def test_an_address_alone_is_no_world(monkeypatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node7")
    with join([torch.device("cpu")]) as world:
        assert world == World()


def test_other_kinds_of_device_train_alone(monkeypatch) -> None:
    for name, text in WHOLE.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(UserError, match="several devices of kind mps"), join([torch.device("mps")]):
        raise AssertionError("joined")


def test_settings_cross_to_another_process() -> None:
    settings = load_settings({"device": "0,1", "batch": 8})
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_a_mistake_arrives_in_one_line(capfd) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(UserError, match="^data.yaml is wrong$") as error:
        launch(2, make_a_mistake, "here")
    assert error.value.__cause__ is None and error.value.__suppress_context__
    assert "Traceback" not in capfd.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_fault_arrives_with_its_traceback_and_not_that_of_the_others() -> None:
    words = r"^process 1 of 2 \(stage: start-up\) failed:\nTraceback(.|\n)*raise_a_fault(.|\n)*ValueError: a fault"
    with pytest.raises(RuntimeError, match=words), quick_launch():
        launch(2, raise_a_fault, "here")


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX")
def test_one_that_dies_ends_all(capfd) -> None:
    words = "^Process 1 of 2 .* killed by SIGKILL; the others were stopped.*resume="
    with pytest.raises(UserError, match=words) as error:
        launch(2, die, "here")
    assert "\n" not in str(error.value) and "Traceback" not in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals are of POSIX")
def test_a_signal_is_handed_on_and_awaited(tmp_path) -> None:
    def send():
        while len(list(tmp_path.glob("ready*"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(Stopped) as stopped, quick_launch():
        launch(2, wait_for_signal, str(tmp_path))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert [(tmp_path / f"saved{rank}").is_file() for rank in (0, 1)] == [True, True]


def test_what_cannot_be_sent_is_told_before_anything_starts() -> None:
    with pytest.raises(UserError, match="can be sent to them.*lambda"):
        launch(2, make_a_mistake, lambda: 0)


@pytest.mark.parametrize(
    "text, imported",
    [
        ("import x\nif __name__ == '__main__':\n    x.train()\n", True),
        ('if "__main__" == __name__: pass', True),
        ("# __main__\nx.train()\n", False),
    ],
)
def test_a_script_that_trains_when_imported_is_left_out(tmp_path, monkeypatch, text, imported) -> None:
    script = tmp_path / "script.py"
    script.write_text(text)
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", str(script), raising=False)
    monkeypatch.setattr(main, "__spec__", None)
    with module.script_left_out(needed=False):
        assert hasattr(main, "__file__") == imported
    assert main.__file__ == str(script)
    with contextlib.nullcontext() if imported else pytest.raises(UserError, match="if __name__ == '__main__'"):
        with module.script_left_out(needed=True):
            assert imported


CAUSE = r"process 1 of 2 \(stage: forward pass\) failed:\nthe cause"


@pytest.mark.parametrize(
    "notes, rank, code, kind, words",
    [
        ({"2.0.error": "came of it", "1.1.error": "the cause"}, 0, 1, RuntimeError, CAUSE),
        ({"1.0.lost": "gone", "2.1.error": "the cause"}, 0, 1, RuntimeError, CAUSE),
        ({"2.1.user": "your mistake", "1.0.error": "page"}, 0, 1, UserError, "your mistake"),
        ({"1.0.lost": "gone"}, 0, 1, LostPeer, "^gone$"),
        ({"2.0.hang": "1 hangs", "1.1.lost": "gone"}, 1, -9, LostPeer, "^1 hangs$"),
        ({"2.0.hang": "1 hangs", "1.1.user": "your mistake"}, 1, -9, UserError, "your mistake"),
        ({"1.0.lost": "came of it"}, 1, -9, UserError, "Process 1 .* SIGKILL.*out of memory: reduce workers="),
        ({}, 0, -11, LostPeer, r"Process 0 of 2 \(counted from 0; stage: start-up\) .* SIGSEGV"),
        ({}, 1, 7, LostPeer, r"stage: forward pass\) ended with code 7"),
        ({}, 0, 130, KeyboardInterrupt, "^$"),
        ({}, 0, 143, Stopped, "143"),
        ({}, 1, -15, Stopped, "143"),
    ],
)
def test_the_cause_is_told_and_not_what_came_of_it(tmp_path, notes, rank, code, kind, words) -> None:
    for name, text in notes.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "1.stage").write_text("forward pass    ")
    with pytest.raises(kind, match=words):
        raise module.failure_of(tmp_path, rank, code, 2)
