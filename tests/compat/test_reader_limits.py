"""Files that would take time or memory far beyond their size, each made here: the limits of tests/attack/pickles.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bitfalcon_plugin.compat import opcodes
from bitfalcon_plugin.compat.reader import read

from tests.attack import pickles
from tests.attack.pickles import FILES, checkpoint
from tests.helpers import foreign
from tests.helpers.foreign import refusal
from tests.helpers.paths import ROOT

SECONDS, MEGABYTES = 3.0, 200  # of any of these files, of the processor; the promise is 5 s and 1 GB
SAID = {  # a file of the corpus, and a word of what is said of it; "" where it opens
    "60,000 single items": "",
    "20,000 class names": "more than 300 classes",
    "2,000 names, 20,000 objects": "more than 300 classes",
    "1 name, 250,000 objects": "more than 40000 objects",
    "250 names, 300,000 repeated states": "more than 40000 objects",
    "600,000 refused names": "evil0.c, evil1.c",
    "arguments again": "again and again",
    "sets again": "again and again",
    "bytes again": "again and again",
    "100,000 nested calls": "more than 40000 objects",
    "900 arrays of 60,000 dimensions": "does not hold together",
    "60 modules, 50,000 tensors of long names": "longer than 1000 letters",
}
CHILD = """
import re, sys, time
from pathlib import Path
from bitfalcon_plugin.compat.reader import read
from bitfalcon_plugin.config.errors import UserError
def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024
read(sys.argv[1])
before = peak()
for path in sys.argv[2:]:
    start, said = time.process_time(), ''
    try:
        read(path)
    except UserError as error:
        said = str(error)
    print(f'{time.process_time() - start:.2f} {peak() - before} {said}')
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory in /proc")
def test_time_and_memory_follow_the_size_of_a_file(tmp_path) -> None:
    good = foreign.write(tmp_path / "good.pt")
    paths = [FILES[label](tmp_path / f"{index}.pt") for index, label in enumerate(SAID)]
    command = [sys.executable, "-c", CHILD, good, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths) and done.returncode == 0, done.stdout + done.stderr
    for (label, word), line in zip(SAID.items(), lines):
        seconds, megabytes, *said = line.split(" ", 2)
        assert word in line and bool(word) == bool(said[0]), (label, line)
        assert float(seconds) < SECONDS and int(megabytes) < MEGABYTES, (label, line)


def test_limits_are_reached_and_not_before(tmp_path) -> None:
    most = opcodes.MAX_NAMES
    assert len(read(checkpoint(tmp_path / "x.pt", pickles.class_names(most))).classes) == most
    assert "more than 300 classes" in refusal(checkpoint(tmp_path / "y.pt", pickles.class_names(most + 1)))
    read(checkpoint(tmp_path / "x.pt", pickles.names_and_objects(1, opcodes.MAX_OBJECTS - 1)))
    too_many = pickles.names_and_objects(1, opcodes.MAX_OBJECTS)
    assert "more than 40000 objects" in refusal(checkpoint(tmp_path / "y.pt", too_many))


def test_values_may_be_arguments_again_where_little_is_copied(tmp_path) -> None:
    made = read(checkpoint(tmp_path / "x.pt", pickles.bytes_again(10, 3))).attributes["more"]
    assert made == [b"a" * 10, *[b"a" * 10] * 2] or made[1:] == [b"a" * 10] * 3


def test_arrays_of_usual_shapes_come_back(tmp_path) -> None:
    read_back = read(checkpoint(tmp_path / "x.pt", pickles.shared_arrays(5, 3))).attributes["more"]
    assert len(read_back) == 4 and torch.equal(read_back[0], torch.full((5,), 97, dtype=torch.uint8))


@pytest.mark.parametrize(
    "code, shape",
    [
        (b")" + b"\x85" * 200_000, b"(K\1t"),
        (pickles.text("f4"), b")" + b"\x85" * 200_000),
        (pickles.text("f4"), b"(K\1" + pickles.small(-1) + b"t"),
        (pickles.text("f4"), pickles.text("ab")),
    ],
)
def test_arrays_of_another_shape_or_type_than_numbers(tmp_path, code, shape) -> None:
    kind = (
        pickles.name("numpy.dtype") + b"(" + code + b"\x89\x88tR(" + pickles.small(3) + pickles.text("<") + b"NNNNNNtb"
    )
    raw = pickles.name("_codecs.encode") + pickles.text("") + pickles.text("latin1") + b"\x86R"
    made = pickles.name("numpy.core.multiarray._reconstruct") + b")R(K\1" + shape + kind + b"\x89" + raw + b"tb"
    path = checkpoint(tmp_path / "x.pt", made)
    if code[:1] == b")":  # a type that is not known
        assert "more" not in read(path).attributes
    else:
        assert "does not hold together" in refusal(path)
