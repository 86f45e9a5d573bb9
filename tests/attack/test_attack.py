"""Half a minute of what the files of this folder do by hand for hours; see README.md."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from tests.attack import audits, disks, kills, stream, swaps
from tests.attack.annotation_mutators import mutate_json, mutate_xml
from tests.attack.formats import KINDS, corpus, outcome
from tests.attack.mutations import order, prepare
from tests.attack.mutators import MUTATORS, mutate_protobuf
from tests.attack.state import State
from tests.attack.watching import watched

# Formats of other programs take seconds a file, and are mutated by hand.
QUICK = [name for name in KINDS if not name.startswith(("torchscript", "onnx", "pt2", "openvino"))]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    with contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.attack.formats.EXPORTED", {})
        corpus(folder)
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_whole_files_open_and_broken_ones_are_refused(files, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "own"))
    kind = KINDS[name]
    (tmp_path / "whole").mkdir()
    whole = tmp_path / "whole" / kind.file
    if name != "list of sources":
        if whole.parent.name != "whole":
            shutil.copytree(files / Path(kind.file).parent, whole.parent)
        whole.write_bytes((files / kind.file).read_bytes())
        assert outcome(kind, whole) == "opened"
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = prepare(name, 7, number, files, folder)
        if name in ("graph", "pickle without archive") and path.stat().st_size > 20_000:
            continue  # thousands of rows, or a whole network
        found = outcome(kind, path)
        assert not found.startswith("fault"), (number, found)


def test_a_case_follows_from_its_number_and_seed(files, tmp_path):
    turns = order(KINDS, "")
    assert {*turns} >= {*KINDS} and turns == order(KINDS, "")
    contents = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        contents.append(prepare("checkpoint", number // 2, 5, files, folder).read_bytes())
    with zipfile.ZipFile(io.BytesIO(contents[0])) as one, zipfile.ZipFile(io.BytesIO(contents[1])) as two:
        assert [(name, one.read(name)) for name in one.namelist()] == [
            (name, two.read(name)) for name in two.namelist()
        ]
    assert contents[2] != contents[0]


OTHERS = {"protobuf": mutate_protobuf, "COCO JSON": mutate_json, "VOC XML": mutate_xml}
CONTENTS = {
    "protobuf": b"\x08\x01\x12\x03abc",
    "COCO JSON": b'{"images": [{"id": 1}], "annotations": [{"bbox": [1, 2, 3, 4]}]}',
    "VOC XML": b"<annotation><object><name>a</name></object></annotation>",
}


def test_every_mutator_changes_and_takes_anything():
    for name, mutate in [*MUTATORS.items(), *OTHERS.items()]:
        data = CONTENTS.get(name, b"key: [1, 2]\nother: x\n")
        if name in ("pt", "torchscript", "pt2"):
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("x/data.pkl", b"\x80\x02}q\x00.")
            data = file.getvalue()
        changed = [mutate(random.Random(seed), data) for seed in range(40)]
        assert sum(each != data for each in changed) > 20, name
        assert changed == [mutate(random.Random(seed), data) for seed in range(40)] or zipfile.is_zipfile(file)


CHILD = """
import os, sys, time
from tests.attack.watching import handle
def case(number):
    if number == 1: os._exit(3)
    if number == 2: time.sleep(60)
    if number == 3: kept.append(bytearray(300_000_000))
    if number == 4: os.system("true")
    return "opened"
kept = []
first, stop = map(int, sys.argv[1:])
handle(range(first, stop), lambda number: "x", case)
"""


def test_the_watcher_notices_crashes_hangs_memory_and_what_is_started(tmp_path, monkeypatch):
    (tmp_path / "watched_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cases = list(watched(["watched_child"], range(6), seconds=1.0, megabytes=200))
    words = [outcome.removeprefix("x: ").partition(":")[0] for _, outcome, _, _ in cases]
    assert [number for number, *_ in cases] == list(range(6))
    assert words == ["opened", "crashed", "hung", "memory", "executed", "opened"]


def test_a_state_is_gone_on_with(tmp_path):
    state = State(str(tmp_path / "s.json"), {"seed": 0})
    state.add(0, "opened")
    state.add(1, "fault", {"case": 1})
    again = State(str(tmp_path / "s.json"), {"seed": 0})
    assert again.done == 2 and again.content["findings"] == [{"case": 1}]
    with pytest.raises(SystemExit, match="another run"):
        State(str(tmp_path / "s.json"), {"seed": 1})


def test_runs_that_are_killed_end_as_unkilled_ones():
    with contextlib.redirect_stdout(io.StringIO()):
        assert kills.run(2, 0, State("", {}), "train") == []


@pytest.mark.parametrize("error", disks.ERRORS)
def test_a_failing_write_loses_nothing(error):
    with contextlib.redirect_stdout(io.StringIO()):
        assert list(disks.every_write("train", error, every=19)) == []
        assert list(disks.every_write("doctor", error)) == []


def test_a_vanished_folder_an_early_clock_and_a_race_for_a_name():
    assert [*disks.folder_gone(), *disks.clock_back(), *disks.racing()] == []


@pytest.mark.parametrize("mode", ["predict", "stream"])
def test_a_stream_takes_no_more_memory_descriptors_or_threads(tmp_path, mode):
    threads = torch.get_num_threads()
    early, late = stream.run(400, mode, tmp_path)
    torch.set_num_threads(threads)
    growth = late - early
    assert growth[0] < stream.GROWTH and growth[1] < 1 and growth[2] < 1


def test_each_result_of_threads_belongs_to_one_set_of_weights(tmp_path):
    first, second, none = swaps.in_threads(tmp_path, 4, 1.0)
    assert none == 0 and first + second > 0


@pytest.mark.parametrize("verb", ["train with readers"])
def test_a_verb_opens_no_socket_and_writes_only_where_it_should(verb):
    assert audits.run(verb)["found"] == []


def test_the_hook_hears_sockets_processes_and_writes_elsewhere(tmp_path):
    audit = audits.Audit(tmp_path)
    for event, arguments in (
        ("socket.connect", (None, ("127.0.0.1", 80))),
        ("socket.connect", (None, "/run/ours")),
        ("subprocess.Popen", ("curl", ["curl"])),
        ("subprocess.Popen", (audits.sys.executable, [])),
        ("open", (str(tmp_path / "a"), "w", 0)),
        ("open", ("/etc/x", "r", 0)),
        ("open", ("/etc/x", None, audits.os.O_WRONLY)),
        ("os.rename", (str(tmp_path / "a"), "/etc/y", -1, -1)),
    ):
        audit.hear(event, arguments)
    assert len(audit.found) == 4
    assert [line.split()[0] for line in audit.found] == ["socket.connect", "subprocess.Popen", "open", "os.rename"]
