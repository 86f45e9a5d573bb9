"""16 bits on the CPU: chosen where a step is measured to gain, kept when a run goes on, never against amp=."""

from __future__ import annotations

import pytest
import torch

from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.models.inference import precision
from bitfalcon_plugin.train import setup
from bitfalcon_plugin.train.step_gain import step_gain
from tests.helpers import small_runs
from tests.helpers.tiny_models import CONV, small_model

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "amp, convolution, step, chosen, word",
    [
        (None, torch.bfloat16, 1.6, torch.bfloat16, "1.6 times as fast"),
        (None, torch.bfloat16, 1.1, None, ""),
        (None, None, 9.0, None, ""),  # no instructions: no step is measured
        (True, torch.bfloat16, 1.1, None, "gains nothing here"),  # given
        (False, torch.bfloat16, 9.0, None, ""),
        ("fp32", torch.bfloat16, 9.0, None, ""),
        ("fp16", torch.bfloat16, 9.0, None, "needs a GPU"),
        ("bf16", None, 0.1, torch.bfloat16, ""),
    ],
)
def test_bfloat16_is_chosen_where_a_step_gains(monkeypatch, amp, convolution, step, chosen, word):
    monkeypatch.setattr(precision, "half_type", lambda device: (convolution, "a reason"))
    given = {} if amp is None else {"amp": amp}
    said: list[str] = []
    assert precision.training_precision(load_settings(given), CPU, said.append, lambda: step) is chosen
    assert word in " ".join(said) and bool(said) == bool(word)


def test_the_gain_is_a_ratio_of_steps_and_changes_nothing():
    model = small_model(CONV).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert 0.01 < step_gain(model, imgsz=33, batch=2) < 100
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_resumed_run_keeps_its_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_runs.LAY_OUT["detect"](tmp_path)
    monkeypatch.setattr(precision, "half_type", lambda device: (torch.bfloat16, "a reason"))
    monkeypatch.setattr(setup, "step_gain", lambda *arguments: 2.0)
    types: list[torch.dtype | None] = []

    def note_and_stop(trainer):
        types.append(trainer.precision)
        if len(types) == 2:
            raise KeyboardInterrupt

    yolo = small_runs.YOLO(small_runs.GRAPHS["detect"])
    yolo.add_callback("on_train_epoch_start", note_and_stop)
    with pytest.raises(KeyboardInterrupt):
        yolo.train(scale="n", name="a", **{**small_runs.COMMON, "amp": True, "epochs": 2})
    monkeypatch.setattr(setup, "step_gain", lambda *arguments: 0.5)
    resumed = small_runs.YOLO(small_runs.last("a"))
    resumed.add_callback("on_train_epoch_start", note_and_stop)
    resumed.train(resume=True)
    assert set(types) == {torch.bfloat16} and len(types) == 3
