"""Packed files: states come back to the bit, any torch reads the file, and damage is found."""

from __future__ import annotations

import copy
import random

import pytest
import torch

from bitfalcon_plugin.bit.packing import rounded
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.weights import packed_layout as flat
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from bitfalcon_plugin.models.weights.foreign import open_checkpoint
from bitfalcon_plugin.models.weights.trits import CODECS, byte_count
from tests.helpers.packed import NAMES, sealed, small_ternary_model, write_packed


@pytest.fixture
def path(tmp_path):
    return write_packed(tmp_path)


def some_state(draw: random.Random) -> dict[str, torch.Tensor]:
    """Layers and tensors of random shapes and kinds, by the names of a folded model."""
    state: dict[str, torch.Tensor] = {}
    for number in range(draw.randint(1, 8)):
        shape, name = tuple(draw.randint(1, 5) for _ in range(draw.choice((1, 2, 4)))), f"model.{number}.conv"
        kind = draw.choice("tbfhn")
        if kind in "tb":
            state[name + ".codes"] = torch.randint(-1, 2, shape, dtype=torch.int8) * (1 if kind == "t" else 127)
            state[name + ".scale"], state[name + ".bias"] = torch.rand(shape[:1]), torch.randn(shape[:1])
            if draw.random() < 0.5:
                state[name + ".act_scale"] = torch.rand(())
        else:
            state[name + ".weight"] = {
                "f": torch.randn(shape),
                "h": torch.randn(shape).half().float(),
                "n": torch.randint(9, ()),
            }[kind]
    return state


@pytest.mark.parametrize("fmt", CODECS)
def test_states_of_random_shapes_come_back_to_the_bit(fmt):
    draw = random.Random(1)
    torch.manual_seed(1)
    for _ in range(150):
        state = some_state(draw)
        content = sealed(flat.flatten(state, fmt))
        assert sum(isinstance(value, torch.Tensor) for value in content.values()) == 4
        back = flat.restore(content)
        assert list(back) == list(state)
        for name, tensor in state.items():
            assert torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype, name


def test_entries_that_no_piece_holds_are_refused():
    layer = {"a.codes": torch.ones(2, 3, dtype=torch.int8), "a.scale": torch.ones(2), "a.bias": torch.ones(2)}
    for extra in (
        {"a.zero": torch.ones(2)},
        {"a.scale": torch.ones(3)},
        {"a.codes": torch.ones(2, 3)},
        {"b c": torch.ones(1)},
        {"b": torch.tensor(2**24 + 1)},
        {"b": torch.ones(0)},
    ):
        with pytest.raises(ValueError):
            flat.flatten({**layer, **extra}, "t5")


def test_the_file_opens_with_plain_torch_and_is_four_tensors(path):
    content = torch.load(path)
    assert {key: (value.dtype, value.ndim) for key, value in content.items() if isinstance(value, torch.Tensor)} == {
        "trits": (torch.uint8, 1),
        "bytes": (torch.int8, 1),
        "halves": (torch.float16, 1),
        "floats": (torch.float32, 1),
    }
    header = {key: content[key] for key in ("format", "version", "fmt", "rule", "bn_folded")}
    assert header == {"format": "bitfalcon-packed", "version": 1, "fmt": "t5", "rule": "absmean", "bn_folded": True}
    assert "state" not in content and content["graph"]["names"] == NAMES
    weights = copy.deepcopy(small_ternary_model()).fuse().state_dict()
    # Read without this package's reader, as another runtime would:
    line = next(line for line in flat.parse(content["table"]) if line.store == "t")
    used = content["trits"][: byte_count(line.count, "t5")].tolist()
    trits = [byte // 3**index % 3 - 1 for byte in used for index in range(5)][: line.count]
    assert torch.equal(torch.tensor(trits).view(line.shape), weights[f"{line.name}.codes"].long())


def test_the_state_in_the_file_is_that_of_the_rounded_folded_model(path):
    folded = rounded(copy.deepcopy(small_ternary_model()).fuse()).state_dict()
    state = load_checkpoint(path).state
    assert list(state) == list(folded)
    assert all(torch.equal(state[name], folded[name]) and state[name].dtype == folded[name].dtype for name in state)


def test_every_flipped_byte_is_an_error_or_changes_nothing(path):
    whole, state = path.read_bytes(), load_checkpoint(path).state
    start = whole.index(b"PK", 4)  # behind the pickle
    size = len(whole)
    sample = random.Random(5).sample(range(size), 250)
    refused = 0
    for at in (*range(64), *sample, *range(start, start + 40), *range(size - 120, size)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        try:
            read = open_checkpoint(path).state
        except UserError:
            refused += 1
            continue
        assert list(read) == list(state) and all(map(torch.equal, read.values(), state.values())), at
    assert refused > 250


def test_a_file_that_is_cut_off_is_an_error(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            open_checkpoint(path)


def test_the_files_own_checksum_finds_a_flipped_byte_in_a_sound_archive(path):
    content = torch.load(path)
    for piece in flat.PIECES:
        other = {**content, piece: content[piece].clone()}
        other[piece].view(torch.uint8)[-1] ^= 1
        torch.save(other, path)
        with pytest.raises(UserError, match="checksum"):
            load_checkpoint(path)
    for key, value in (("names", {0: "red", 1: "green", 2: "cyan"}), ("name", "x"), ("nc", 4)):
        torch.save({**content, "graph": {**content["graph"], key: value}}, path)
        with pytest.raises(UserError, match="checksum"):
            load_checkpoint(path)
