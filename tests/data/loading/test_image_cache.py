"""The same batches with a cache and without, files that change, full disks, and reader processes that die."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.data.loading import image_cache as module
from bitfalcon_plugin.data.loading import workers as reading
from bitfalcon_plugin.data.loading.image_cache import SharedTiles, TileFiles, free_memory, open_cache
from bitfalcon_plugin.data.loading.loader import Reading, ValLoader
from bitfalcon_plugin.data.loading.workers import worker_death
from tests.data.loading.test_loader import FULL, assert_same, complaint, epoch, train, write
from tests.helpers.paths import ROOT

SIZES = [(64, 48), (30, 40), (64, 64), (20, 80), (50, 50), (96, 64), (64, 60)]


@pytest.fixture
def samples(tmp_path: Path, monkeypatch) -> list[Sample]:
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    return write(tmp_path / "images", SIZES)


def counted(monkeypatch) -> list[str]:
    paths, plain = [], reading.read_interleaved
    monkeypatch.setattr(reading, "read_interleaved", lambda path: (paths.append(path), plain(path))[1])
    return paths


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["ram", True, "disk"])
def test_batches_are_the_same_with_a_cache(samples, kind, workers, monkeypatch):
    plain, kept = train(samples), train(samples, cache=kind, workers=workers)
    for number in range(3):
        assert_same(epoch(kept, number, FULL), epoch(plain, number, FULL))
    readings = Reading(workers=workers), Reading(workers=workers, cache=kind)
    val, kept_val = (ValLoader(samples, reading, imgsz=64, batch=3, multiple=32) for reading in readings)
    for _ in range(2):
        for (images, fits, indices), (others, other_fits, other_indices) in zip(list(val), list(kept_val)):
            assert torch.equal(images, others) and fits == other_fits and indices == other_indices
    assert plain.note == "" and kept.note.startswith("cache=disk: 0 of 7" if kind == "disk" else "cache=ram: up to")
    read = counted(monkeypatch)
    monkeypatch.setattr(kept._loader, "_iterator", None)  # new readers, by fork, see what the first ones kept
    assert_same(epoch(kept, 3, FULL), epoch(plain, 3, FULL))
    assert len(read) == 7  # those of the plain loader


def test_files_serve_the_next_run_and_validation_and_stay_out_of_the_dataset(samples, tmp_path, monkeypatch):
    before = sorted((tmp_path / "images").iterdir())
    epoch(train(samples, cache="disk"), 0, FULL)
    read = counted(monkeypatch)
    again = train(samples, cache="disk")
    epoch(again, 1, FULL)
    list(ValLoader(samples, Reading(cache="disk"), imgsz=64, batch=3, multiple=32))
    assert read == [] and again.note.startswith("cache=disk: 7 of 7")
    epoch(train(samples, imgsz=32, cache="disk"), 0, FULL.__class__(**{**vars(FULL), "imgsz": 32}))
    assert len(read) == 7  # another size
    assert sorted((tmp_path / "images").iterdir()) == before
    assert len(list((tmp_path / "cache" / "tiles" / "64").glob("*/*.tile"))) == 7


def test_a_changed_image_is_read_anew(samples, monkeypatch):
    epoch(train(samples, cache="disk"), 0, FULL)
    path = samples[2].image
    Image.new("RGB", (64, 64), (1, 2, 3)).save(path)
    os.utime(samples[4].image, ns=(1, 1))
    read = counted(monkeypatch)
    kept = train(samples, cache="disk", on_bad_image="stop")
    assert_same(epoch(kept, 0, FULL), epoch(train(samples), 0, FULL))
    assert sorted(read)[:1] and read.count(str(path)) == 2 and read.count(str(samples[4].image)) == 2 and len(read) == 9
    path.unlink()
    assert "02.png" in complaint(kept.epoch(0, FULL))


@pytest.mark.parametrize("harm", [
    lambda data: data[:-1], lambda data: data + b"x", lambda data: data[:10], lambda data: b"",
    lambda data: b"x" * len(data), lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
    lambda data: data[:40] + bytes(len(data) - 40),
    lambda data: b"\x93NUMPY" + data[6:],
])  # fmt: skip
def test_a_broken_file_is_written_again(samples, harm, tmp_path):
    epoch(train(samples, cache="disk"), 0, FULL)
    files = sorted((tmp_path / "cache").rglob("*.tile"))
    whole = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(harm(file.read_bytes()))
    assert_same(epoch(train(samples, cache="disk"), 0, FULL), epoch(train(samples), 0, FULL))
    assert [file.read_bytes() for file in files] == whole
    folders = {part for file in files for part in file.parents if tmp_path / "cache" in part.parents}
    assert set((tmp_path / "cache").rglob("*")) == {*files, *folders}


def test_a_disk_that_is_full_or_closed_is_said_and_costs_nothing_else(samples, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    loader = train(samples, cache="disk")
    monkeypatch.setattr(module.os, "replace", full)  # while it runs
    assert_same(epoch(loader, 0, FULL), epoch(train(samples), 0, FULL))
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    monkeypatch.undo()
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    closed = train(samples, cache="disk")
    assert closed.note.startswith("cache=disk is off") and "BITFALCON_CACHE" in closed.note
    assert_same(epoch(closed, 0, FULL), epoch(train(samples), 0, FULL))
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    assert "1000" not in train(samples, cache="disk").note and "are free" in train(samples, cache="disk").note


def test_memory_that_is_not_there_is_not_taken(samples, monkeypatch):
    shapes = [(64, 48), (64, 64)]
    needed = sum(3 * height * width for height, width in shapes)
    for free, copies, opened in (
        (needed * 1.5, 1, True),
        (needed * 1.5 - 1, 1, False),
        (needed * 2, 2, False),
        (None, 9, True),
    ):
        monkeypatch.setattr(module, "free_memory", lambda free=free: free)
        cache, note = open_cache("ram", ["a", "b"], shapes, 64, copies)
        assert (cache is not None) == opened
        assert note.startswith("cache=ram: up" if opened else "cache=ram is off")
    assert open_cache(False, ["a", "b"], shapes, 64) == (None, "")


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux")
def test_free_memory_is_what_the_system_says():
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = int(lines["MemTotal"].split()[0]) * 1024, free_memory()
    assert 0 <= free <= total


def test_shared_memory_is_the_same_in_a_process_that_was_spawned(samples):
    cache = SharedTiles([(4, 6), (5, 5)])
    first, second = (torch.randint(0, 256, (3, *shape), dtype=torch.uint8) for shape in cache.shapes)
    cache.put(0, first)
    twin = pickle.loads(pickle.dumps(cache))  # what a spawned reader gets
    assert torch.equal(twin.get(0), first) and twin.get(1) is None and len(pickle.dumps(cache)) < 1000
    twin.put(1, second)
    assert torch.equal(cache.get(1), second) and torch.equal(cache.get(0), first)
    cache.get(0).zero_()
    assert torch.equal(cache.get(0), first)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="elsewhere a temporary file is used")
def test_shared_memory_leaves_nothing_behind_after_a_kill(tmp_path):
    code = (
        "from bitfalcon_plugin.data.loading.image_cache import SharedTiles; "
        "import torch, os, signal; c = SharedTiles([(9, 9)]);"
        "c.put(0, torch.ones(3, 9, 9).byte()); os.kill(os.getpid(), signal.SIGKILL)"
    )
    seen = set(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else set()
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    assert ended.returncode == -signal.SIGKILL and list(tmp_path.iterdir()) == []
    assert not set(Path("/dev/shm").glob("*bitfalcon*")) - seen


def test_a_tile_file_is_read_by_its_numbers_alone(tmp_path):
    image = tmp_path / "a.png"
    Image.new("RGB", (5, 4)).save(image)
    cache = TileFiles(tmp_path, [str(image)], [(4, 5)])
    assert cache.get(0) is None
    tile = torch.arange(60, dtype=torch.uint8).view(3, 4, 5)
    cache.put(0, tile)
    assert torch.equal(cache.get(0), tile) and cache.path(0).stat().st_size == module.HEADER.size + 60
    assert TileFiles(tmp_path, [str(image)], [(5, 4)]).get(0) is None


# Readers that die


DYING = """
import os, sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from tests.data.loading.test_loader import FULL, train, write
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.data.loading.workers import worker_death
torch.set_num_threads(1)
samples = write(Path(sys.argv[2]), [(64, 48)] * 40)
child = os.fork()
loader = train(samples, batch=2, workers=2)
try:
    for number, _ in enumerate(loader.epoch(0, FULL)):
        if number == 2:
            os.kill(loader._loader._iterator._workers[0].pid, 7 if child else 9)
            time.sleep(0 if child else 2)  # noticed in the loader, or elsewhere
except UserError as error:
    told = str(error)
except RuntimeError as error:
    told = str(worker_death(error))
sys.stdout.write(told + os.linesep)
sys.stdout.flush()
if child:
    os.waitpid(child, 0)
os._exit(0)  # without waiting for the other readers
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and the numbers of signals are Linux's")
def test_a_reader_that_dies_is_explained(tmp_path):
    # In separate processes: torch's signal handler raises wherever the main process is, so in pytest as well.
    command = [sys.executable, "-c", DYING, str(ROOT), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    told = ended.stdout.splitlines()
    assert len(told) == 2 and ended.returncode == 0, ended.stderr
    for line in told:
        assert "A process that reads images" in line and "died" in line and "workers=" in line and "cache=" in line


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError(), FileNotFoundError(2, "socket")])
def test_a_broken_connection_to_a_dead_reader_is_explained(error):
    class Reader:
        def __init__(self, alive):
            self.alive = alive

        def join(self, timeout):
            assert timeout <= 1

        def is_alive(self):
            return self.alive

    class Passing:
        num_workers = 0  # the loader whose iterator this is too has nothing to end

        def __init__(self, *alive):
            self._workers = [Reader(each) for each in alive]

        def __iter__(self):
            return self

        def __next__(self):
            raise error

    assert "shared memory" in complaint(reading.read(Passing(True, False)))
    for others in (Passing(True, True), Passing()):  # then it is something else
        with pytest.raises(type(error)):
            next(reading.read(others))


def test_what_is_told_of_a_death():
    killed = worker_death(RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "))
    assert "(12)" in killed and "ran out of memory" in killed
    bus = RuntimeError(
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
        "workers are out of shared memory. Please try to raise your shared memory limit."
    )
    assert "shared memory" in worker_death(bus) and "Bus error" in worker_death(bus)
    ended = worker_death(RuntimeError("DataLoader worker (pid(s) 31, 32) exited unexpectedly"))
    assert "(31)" in ended and "without a word" in ended
    assert worker_death(RuntimeError("Caught RuntimeError in DataLoader worker process 0.")) is None
    assert (
        worker_death(RuntimeError("CUDA out of memory")) is None
        and worker_death(ValueError("DataLoader worker")) is None
    )
