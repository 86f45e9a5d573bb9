"""The importance of settings against numpy's own fits, and whether it names what mattered."""

from __future__ import annotations

import numpy as np
import pytest

from bitfalcon_plugin.tune.importance import importances
from bitfalcon_plugin.tune.space import Choices, Range

SPACE = {f"x{index}": Range(0.0, 1.0) for index in range(8)}


def draw(count: int, seed: int) -> list[dict[str, float]]:
    generator = np.random.default_rng(seed)
    return [dict(zip(SPACE, row)) for row in generator.random((count, len(SPACE))).tolist()]


def test_the_share_is_the_adjusted_one_of_a_parabola():
    values, noise = draw(20, 0), np.random.default_rng(1).normal(0, 0.1, 20)
    fitness = np.array([row["x0"] ** 2 - row["x1"] for row in values]) + noise
    shares = importances(SPACE, values, fitness.tolist())
    for key in SPACE:
        x = np.array([row[key] for row in values])
        left = fitness - np.polyval(np.polyfit(x, fitness, 2), x)
        expected = 1 - left.var() / fitness.var() * 19 / 17
        assert shares[key] == pytest.approx(max(expected, 0), abs=1e-6)


def test_a_logarithmic_range_is_judged_by_its_logarithm():
    values = [{"lr0": 10.0**power} for power in range(-6, 0)]
    shares = importances(
        {"lr0": Range(1e-6, 0.1, log=True)}, values, [-(abs(power + 3.0) ** 2) for power in range(-6, 0)]
    )
    assert shares["lr0"] == pytest.approx(1)


def test_choices_are_judged_by_their_means():
    values = [{"optimizer": name} for name in ("SGD", "Adam", "SGD", "Adam", "SGD", "Adam")]
    assert importances({"optimizer": Choices(("SGD", "Adam"))}, values, [1, 2, 1, 2, 1, 2])["optimizer"] == 1
    assert importances({"optimizer": Choices(("SGD", "Adam"))}, values, [1, 1, 2, 2, 3, 3])["optimizer"] == 0


@pytest.mark.parametrize(
    "shape", [lambda x: -((x - 0.7) ** 2), lambda x: float(0.2 < x < 0.6), lambda x: float(x < 0.8)]
)
def test_what_mattered_is_first(shape):
    first = 0
    for seed in range(40):
        values, generator = draw(30, seed), np.random.default_rng(seed)
        fitness = [shape(row["x5"]) - 0.05 * abs(row["x2"] - 0.3) + generator.normal(0, 0.02) for row in values]
        first += next(iter(importances(SPACE, values, fitness))) == "x5"
    assert first >= 38


@pytest.mark.parametrize("fitness", [[1.0] * 8, [1.0, 2.0, 3.0, 4.0]])
def test_few_or_equal_trials_say_nothing(fitness):
    assert importances(SPACE, draw(len(fitness), 0), fitness) == {}


def test_a_setting_that_never_changed_has_no_share():
    values = [{**row, "x0": 0.5} for row in draw(9, 0)]
    assert importances(SPACE, values, [row["x1"] for row in values])["x0"] == 0
