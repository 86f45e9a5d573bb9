"""Interleaved timing: who runs when, by a clock that the tests turn, and what is said of the machine."""

from __future__ import annotations

import json
import statistics

import pytest
import torch

import bitfalcon_plugin.benchmark.timing as timing
from bitfalcon_plugin.benchmark.timing import Timing, interleave, machine, machine_line, variants
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.inference.threads import threads
from tests.helpers.tiny_models import CONV, lived, small_model


class Clock:
    """A clock that stands still but for what candidates add."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self) -> float:
        return self.now

    def taking(self, name: str, *seconds: float):
        left = list(seconds)

        def run():
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_rounds_take_turns_in_both_directions_and_the_warm_up_does_not_count():
    clock = Clock()
    runs = {"a": clock.taking("a", 9.0, 1.0, 2.0, 3.0), "b": clock.taking("b", 9.0, 0.5), "c": clock.taking("c", 0.1)}
    timings = interleave(runs, rounds=3, warmup=1, clock=clock)
    assert "".join(clock.calls) == "cba" + "abc" + "cba" + "abc"
    assert timings["a"].rounds == pytest.approx((1000, 2000, 3000)) and timings["b"].rounds == pytest.approx(
        (500, 500, 500)
    )
    assert list(timings) == ["a", "b", "c"] and timings["a"].count == 3


def test_short_candidates_are_called_until_the_time_has_passed_and_their_mean_counts():
    clock = Clock()
    timings = interleave(
        {"a": clock.taking("a", 0.25, 0.75, 0.3), "b": clock.taking("b", 2.0)},
        rounds=1,
        warmup=0,
        seconds=1.0,
        clock=clock,
    )
    assert (
        clock.calls == ["a", "a", "b"]
        and timings["a"].median == pytest.approx(500)
        and timings["b"].median == pytest.approx(2000)
    )


def test_quartiles_are_numpy_s():
    import numpy as np

    values = (5.0, 1.0, 4.0, 2.0, 9.0, 3.5, 8.0)
    timed = Timing(values)
    assert (timed.low, timed.median, timed.high) == pytest.approx(tuple(np.quantile(values, (0.25, 0.5, 0.75))))
    single = Timing((3.0,))
    assert (single.low, single.median, single.high) == (3.0, 3.0, 3.0)


def test_how_many_times_faster_is_told_round_by_round():
    own, other = Timing((1.0, 10.0, 2.0)), Timing((2.0, 20.0, 100.0))
    assert own.faster_than(other) == 2.0 == statistics.median((2, 2, 50))
    assert own.faster_than(Timing((4.0, 8.0))) == 6.0 / 2.0


def test_a_timing_survives_json_and_a_damaged_one_is_refused():
    timed = Timing((1.25, 3.5, 2.0))
    assert Timing.from_dict(json.loads(json.dumps(timed.as_dict()))) == timed
    for bad in (
        None,
        {},
        {"rounds_ms": []},
        {"rounds_ms": ["1"]},
        {"rounds_ms": [True]},
        {"rounds_ms": [-1.0]},
        {"median_ms": 3},
    ):
        with pytest.raises(UserError, match="rounds_ms"):
            Timing.from_dict(bad)


def test_nonsense_numbers_of_rounds_are_refused_and_what_a_candidate_raises_is_not_hidden():
    for keys in ({"rounds": 0}, {"warmup": -1}):
        with pytest.raises(ValueError, match="at least one round"):
            interleave({}, **keys)
    with pytest.raises(ZeroDivisionError):
        interleave({"a": lambda: 1 / 0})


def test_on_cuda_every_measurement_waits_for_the_work(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    interleave({"a": lambda: None}, rounds=2, warmup=0, device=torch.device("cuda", 1))
    assert waited == [torch.device("cuda", 1)] * 4
    interleave({"a": lambda: None}, rounds=2, warmup=0, device=torch.device("cpu"))
    assert len(waited) == 4


def test_threads_are_set_inside_and_restored_also_after_an_error():
    before = torch.get_num_threads()
    with threads(before + 1) as count:
        assert count == before + 1 == torch.get_num_threads()
    with pytest.raises(KeyError), threads(before + 2):
        raise KeyError
    with threads(None) as count:
        assert count == before
    assert torch.get_num_threads() == before


def test_the_machine_is_told_in_plain_values(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    facts = machine()
    assert json.loads(json.dumps(facts)) == facts
    assert (
        facts["limits"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
        and facts["torch"] == torch.__version__
        and facts["threads"] == torch.get_num_threads()
    )
    line = machine_line(facts)
    assert (
        "\n" not in line
        and "ONEDNN_MAX_CPU_ISA=AVX2" in line
        and str(facts["cpu"]) in line
        and f"torch {torch.__version__}" in line
    )
    assert facts["capability"] in line


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "model name\t: Some CPU @ 3 GHz\nflags\t\t: fpu avx2 avx512f avx512_vnni\n",
            ("Some CPU @ 3 GHz", ["avx2", "avx512f", "avx512_vnni"]),
        ),
        ("processor\t: 0\nFeatures\t: fp asimddp i8mm bf16\n", (None, ["asimddp", "i8mm", "bf16"])),
    ],
)
def test_the_instruction_set_is_read_where_linux_writes_it(monkeypatch, text, expected):
    monkeypatch.setattr(timing, "_cpuinfo", lambda: text.splitlines())
    facts = machine()
    assert facts["instructions"] == expected[1] and (expected[0] is None or facts["cpu"] == expected[0])


def test_without_cpuinfo_torch_is_asked(monkeypatch):
    monkeypatch.setattr(timing, "_cpuinfo", list)
    monkeypatch.setattr(timing, "PROBES", {"avx2": "_is_there", "avx512f": "_is_not_there"})
    monkeypatch.setattr(torch.cpu, "_is_there", lambda: True, raising=False)
    assert machine()["instructions"] == ["avx2"]


def test_variants_agree_with_the_model_and_leave_it_alone():
    torch.manual_seed(0)
    model = lived(small_model(CONV))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outputs = {name: run() for name, run in variants(model, (32, 50), batch=2).items()}
    assert list(outputs) == ["fp32 NCHW", "fp32 channels_last", "bf16 channels_last"]
    noise = torch.rand(
        2, 3, 32, 50, generator=torch.Generator().manual_seed(0)
    )  # both sides are multiples of this model's 2
    with torch.no_grad():
        whole = model.decode(model(noise))
    for name, tolerance in (("fp32 NCHW", 1e-3), ("fp32 channels_last", 1e-3), ("bf16 channels_last", 0.5)):
        assert outputs[name].shape == whole.shape == (2, 6, 16 * 25) and outputs[name].dtype == torch.float32
        assert (outputs[name] - whole).abs().max() < tolerance
    assert (outputs["bf16 channels_last"] - whole).abs().max() > 0  # it does compute in another type
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_side_that_is_not_legal_is_taken_up_to_the_next():
    model = small_model(CONV, CONV, CONV)
    assert model.multiple == 8
    assert variants(model, 30, names=["fp32 NCHW"])["fp32 NCHW"]().shape[-1] == (32 // 8) ** 2
