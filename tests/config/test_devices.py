"""devices.py: what may be typed as device=, on machines with any number of GPUs, and in processes of torchrun."""

from __future__ import annotations

import pytest
import torch

from bitfalcon_plugin.config.devices import device_text, select_device, select_devices
from bitfalcon_plugin.config.errors import UserError

GIB = 2**30
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with four GPUs, of which 2 has most free memory, then 0, 3, 1; 1 has none left. No torchrun."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def free(index):
        if index == 1:
            raise RuntimeError("CUDA out of memory")
        return {0: 40, 2: 70, 3: 9}[index] * GIB, 80 * GIB

    def of(count):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "mem_get_info", free)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    of(4)
    return of


def gpus(*indices):
    return [torch.device("cuda", index) for index in indices]


@pytest.mark.parametrize(
    "given, expected",
    [
        (None, [0]),
        ("", [0]),
        ("None", [0]),
        ("cuda", [0]),
        (2, [2]),
        ("2", [2]),
        ("cuda:2", [2]),
        ("CUDA:1", [1]),
        (torch.device("cuda:3"), [3]),
        ("0,1", [0, 1]),
        ((0, 1), [0, 1]),
        ([3, 0], [3, 0]),
        ("cuda:0,1", [0, 1]),
        ("cuda:0,cuda:1", [0, 1]),
        (" 0, 2 ", [0, 2]),
        ("[0, 1]", [0, 1]),
        (("0", "1"), [0, 1]),
        ("0,", [0]),
        ([2], [2]),
        (-1, [2]),
        ("-1", [2]),
        ("-1,-1", [2, 0]),
        ((-1, -1), [2, 0]),
        ([2, -1], [2, 0]),
        ([-1, -1, -1, -1], [2, 0, 3, 1]),
    ],
)
def test_gpus_are_named_in_many_ways(given, expected) -> None:
    assert select_devices(given) == gpus(*expected)
    if len(expected) == 1:
        assert select_device(given) == gpus(*expected)[0]
    else:
        with pytest.raises(UserError, match="several devices are for training"):
            select_device(given)


@pytest.mark.parametrize("given", ["cpu", "CPU", ["cpu"], torch.device("cpu")])
def test_cpu(given) -> None:
    assert select_devices(given) == [torch.device("cpu")] == [select_device(given)]


@pytest.mark.parametrize("given", [None, ""])
def test_nothing_named_and_no_gpu_is_the_cpu(machine, given) -> None:
    machine(0)
    assert select_devices(given) == [torch.device("cpu")]


@pytest.mark.parametrize(
    "given, words",
    [
        ("0,7", ["'7' does not exist on this machine", "known: cpu, 0, 1, 2, 3"]),
        (7, ["device=7", "'7'"]),
        ("0,0", ["0 is named twice"]),
        ("1,0,1", ["1 is named twice"]),
        ("cpu,0", ["only GPUs work together"]),
        ("cpu,cpu", ["only GPUs work together", "cpu is named twice"]),
        ("gpu", ["'gpu'"]),
        ("mps", ["'mps' does not exist on this machine"]),
        (-2, ["'-2'"]),
        ("0.5", ["'0.5'"]),
        (True, ["'true'"]),
        ("7,9", ["'7'", "'9'"]),
        ("-1,-1,-1,-1,-1", ["5 GPUs"]),
        ("²", ["'²' does not exist on this machine"]),
    ],
)
def test_wrong_devices_are_reported_with_the_available_ones(given, words) -> None:
    with pytest.raises(UserError) as error:
        select_devices(given)
    assert all(word in str(error.value) for word in (f"device={given!r}", *words))


@pytest.mark.parametrize("given", [0, "cuda", -1, "0,1"])
def test_no_gpu_where_one_is_named(machine, given) -> None:
    machine(0)
    missing = "does not exist on this machine"
    with pytest.raises(UserError, match=rf"no GPU|{missing} \(known: cpu\)|'0' {missing}; '1' {missing}"):
        select_devices(given)


@pytest.mark.parametrize("given", [None, "cuda", "0,1,2,3", (0, 1, 2, 3)])
def test_processes_of_torchrun_take_one_each(monkeypatch, given) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    devices = []
    for local in range(4):
        monkeypatch.setenv("LOCAL_RANK", str(local))
        devices += select_devices(given)
    assert devices == gpus(0, 1, 2, 3)


def test_processes_of_torchrun_share_the_cpu(machine, monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert select_devices("cpu") == [torch.device("cpu")]
    machine(0)
    assert select_devices(None) == [torch.device("cpu")]


@pytest.mark.parametrize(
    "given, local, processes, words",
    [
        ("0,1", "0", "4", "torchrun started 4 processes"),
        (0, "0", "2", "--nproc-per-node=1"),
        ("0,1,2", "1", "2", "is 3 of"),
        (None, "4", "8", "is 4 of"),
        ("0,1", "x", "2", "LOCAL_RANK=x"),
        (-1, "0", "2", "would all choose the same GPU"),
    ],
)
def test_processes_and_devices_must_be_equally_many(monkeypatch, given, local, processes, words) -> None:
    monkeypatch.setenv("LOCAL_RANK", local)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    with pytest.raises(UserError, match=words):
        select_devices(given)


@pytest.mark.parametrize("given, text", [("3,0", "3,0"), ("-1,-1", "2,0"), ("cpu", "cpu"), (None, "0")])
def test_device_text_for_another_process(given, text) -> None:
    devices = select_devices(given)
    assert device_text(devices) == text and select_devices(text) == devices
