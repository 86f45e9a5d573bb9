"""`bitfalcon train` with bit= and keep=: ternary layers from the beginning, without a step of the verb bit."""

from __future__ import annotations

import pytest

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.command_line import parse_tokens
from bitfalcon_plugin.models.bitify import ternary_layers
from tests.bit.commands import COMMON, best_model, run_training

FRESH = ("train", "model=small.yaml", "scale=n", "epochs=1")


@pytest.fixture()
def ternary_head(floats):
    """The command that trains a graph whose head is ternary by its name."""
    (floats / "bit.yaml").write_text((floats / "small.yaml").read_text().replace("Detect", "BitDetect"))
    return "train", "model=bit.yaml", "scale=n", "epochs=1"


def test_from_nothing(floats, capsys):
    assert len(ternary_layers(best_model(run_training("fresh", *FRESH, "bit=head")))) > 4
    assert "bit=head: " in capsys.readouterr().out


def test_from_weights(floats):
    weights = run_training("warm", "train", "model=float.pt", "bit=all", "keep=model.4", "epochs=1")
    layers = ternary_layers(best_model(weights))
    assert layers and not any(name.startswith("model.4.") for name in layers)


def test_bit_none_makes_a_ternary_head_float(ternary_head):
    assert not ternary_layers(best_model(run_training("plain", *ternary_head, "bit=none")))


def test_null_in_a_file_leaves_a_ternary_head(ternary_head, floats):
    (floats / "args.yaml").write_text("bit: null\nkeep: null\n")
    assert ternary_layers(best_model(run_training("empty", *ternary_head, "cfg=args.yaml")))


def test_keep_none_replaces_the_predictions_too(floats):
    assert parse_tokens(["train", "bit=head", "keep=None"])[1]["keep"] == "none"
    layers = ternary_layers(best_model(run_training("all", *FRESH, "bit=head", "keep=none")))
    assert "model.5.cv2.0.2" in layers


def test_an_unknown_part_is_refused(floats, capsys):
    assert main(["train", "model=small.yaml", "bit=tail", "epochs=1", *COMMON]) == 2
    assert "bit=tail" in capsys.readouterr().err
