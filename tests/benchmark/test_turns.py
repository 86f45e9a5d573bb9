"""Who is timed when: nobody is left out for one sample, a busy machine is noticed; by clocks that the tests turn."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import bitfalcon_plugin.benchmark.turns as turns
from bitfalcon_plugin.benchmark.candidates import REFERENCE, Candidate
from bitfalcon_plugin.benchmark.quiet import Quiet, measure_quiet, quiet_note
from bitfalcon_plugin.benchmark.report import EngineRecord
from bitfalcon_plugin.benchmark.timing import Limit, interleave
from bitfalcon_plugin.config.errors import UserError

CPU = torch.device("cpu")


class Clock:
    """A clock that stands still but for what candidates add; `taking` makes a candidate of the seconds of its calls."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, *seconds: float):
        left = list(seconds)

        def run(*_):
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return torch.zeros(1)

        return run


def timed(rounds: int, **seconds) -> tuple[dict, Limit]:
    clock, limit = Clock(), Limit("reference", 10.0)
    runs = {name: clock.taking(*values) for name, values in seconds.items()}
    return interleave(runs, rounds=rounds, warmup=0, clock=clock, limit=limit), limit


@pytest.mark.parametrize("unlucky", range(15))
def test_one_unlucky_sample_of_a_candidate_leaves_nobody_out(unlucky):
    values = [0.9] * 15
    values[unlucky] = 40.0
    timings, limit = timed(15, reference=[1.0], other=values)
    assert limit.left_out() == {} and timings["other"].median == pytest.approx(900)
    # after a bad first sample the candidate waits for the middle of the run, and takes part from there on
    assert timings["other"].count == (15 if unlucky else 1 + 8)


def test_two_unlucky_samples_leave_nobody_out():
    timings, limit = timed(15, reference=[1.0], other=[40.0, 40.0, 0.9])
    assert limit.left_out() == {} and [round(value) for value in timings["other"].rounds] == [40000, 40000, 900]


def test_three_slow_samples_spread_over_the_run_leave_a_candidate_out():
    timings, limit = timed(15, reference=[1.0], slow=[14.0], other=[9.0])
    assert limit.left_out() == {"slow": (14.0, 14.0, 14.0)}
    assert timings["slow"].count == 3 and timings["other"].count == timings["reference"].count == 15
    rounds = [number for number in range(15) if limit.takes_part("slow", number, 15)]
    assert rounds == [0, 7, 14]


@pytest.mark.parametrize("rounds", [1, 2])
def test_with_fewer_than_three_rounds_nobody_is_left_out(rounds):
    timings, limit = timed(rounds, reference=[1.0], slow=[99.0])
    assert limit.left_out() == {} and timings["slow"].count == rounds


def test_a_slow_moment_of_the_whole_machine_is_no_candidate_s():
    _, limit = timed(15, reference=[20.0, 1.0], other=[20.0, 1.0])
    assert limit.left_out() == {}


class Runtime:
    """A runtime of which each call takes the given time, or fails."""

    runtime = "fake"

    def __init__(self, run):
        self.run = run

    def __call__(self, images):
        return self.run(images)

    def decode(self, raw):
        return raw

    def parameters(self):
        return iter([torch.zeros(1)])


def in_turns(monkeypatch, clock, **runs) -> tuple[dict, dict]:
    monkeypatch.setattr(turns, "interleave", partial(interleave, clock=clock))
    runs = {REFERENCE: runs.pop("reference"), **runs}
    records = {name: EngineRecord(name, "bfloat16") for name in runs}
    runtimes = {name: Runtime(run) for name, run in runs.items()}
    return turns.time_in_turns(runtimes, records, torch.zeros(1, 3, 2, 2), CPU, 15, 0), records


def test_the_record_tells_the_samples_of_a_candidate_that_is_left_out(monkeypatch):
    clock = Clock()
    left, records = in_turns(monkeypatch, clock, reference=clock.taking(1.0), slow=clock.taking(14.0, 15.0, 16.0))
    assert list(left) == [REFERENCE] and records["slow"].latency is None and records[REFERENCE].faster == 1.0
    assert records["slow"].reason == (
        "too slow: 14, 15, 16 times the reference in 3 samples spread over the run, more than 10 in each "
        "(this machine has no fast bfloat16)"
    )


def test_where_the_reference_fails_nobody_is_slower_than_it(monkeypatch):
    def fails(images):
        raise ValueError("gone")

    clock = Clock()
    left, records = in_turns(monkeypatch, clock, reference=fails, other=clock.taking(2.0))
    assert list(left) == ["other"] and records[REFERENCE].reason == "ValueError: gone"
    assert records["other"].latency.count == 15 and records["other"].faster is None


def test_each_batch_and_number_of_threads_is_a_table_and_files_are_made_once(monkeypatch):
    clock, made, opened = Clock(), [], []
    before = torch.get_num_threads()
    monkeypatch.setattr(turns, "interleave", partial(interleave, clock=clock))

    def with_file(candidate, batch):
        if candidate.name == "broken" and batch == 8:
            raise UserError("not for eight")
        made.append((candidate.name, batch))
        return candidate

    def opening(candidate, device):
        opened.append(torch.get_num_threads())
        return Runtime(lambda images: clock.taking(len(images) * 1.0)())

    monkeypatch.setattr(turns, "open_candidate", opening)
    candidates = [Candidate(name, "torch", "float32") for name in (REFERENCE, "broken")]
    loads = turns.time_workloads(candidates, [(1, 1), (8, 1), (8, 2)], with_file, torch.zeros(1, 3, 2, 2), CPU, 3, 0)
    assert [str(load) for load in loads] == ["batch 1, 1 thread", "batch 8, 1 thread", "batch 8, 2 threads"]
    assert made == [(REFERENCE, 1), ("broken", 1), (REFERENCE, 8)] and opened == [1, 1, 1, 2]
    assert [load.rows[0].latency.median for load in loads] == [1000, 8000, 8000]
    assert [load.rows[1].reason for load in loads] == ["", "not for eight", "not for eight"]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("share, is_quiet", [(1.0, True), (0.95, True), (0.66, False)])
def test_a_machine_whose_threads_wait_is_not_quiet(share, is_quiet):
    clock = Clock()  # of one thread; it computes `share` of the time that passes
    quiet = measure_quiet(1, 0.5, clock=clock, used=lambda: share * clock(), work=clock.taking(0.01))
    assert quiet == Quiet(1, round(share, 2)) and quiet.is_quiet == is_quiet
    assert (quiet_note(quiet) == "") == is_quiet


def test_the_processors_are_asked_for_all_at_once_and_the_note_names_what_they_gave():
    quiet = measure_quiet(2, 0.01)
    assert quiet.processors == 2 and 0 < quiet.obtained <= 2.2
    text = quiet_note(Quiet(2, 1.33))
    assert "not quiet" in text and "2 threads got the time of 1.3 of 2 processors" in text
