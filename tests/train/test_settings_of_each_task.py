"""Settings of training that are no task's own act on keypoints and oriented boxes as they do on boxes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.small_runs import LAY_OUT, same, train, weights

SHORT = {"epochs": 1, "val": False, "mosaic": 1.0}


@pytest.fixture(scope="module", params=["pose", "obb"])
def runs(request, tmp_path_factory):
    """A function that trains an epoch with settings and returns the name of the run; a run is trained once."""
    folder, known = tmp_path_factory.mktemp(request.param), set()
    LAY_OUT[request.param](folder)

    def run(**given) -> str:
        name = "-".join(f"{key}={value}" for key, value in given.items()) or "plain"
        if name not in known:
            known.add(name)
            train(name, request.param, **{**SHORT, **given})
        return name

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield run


@pytest.mark.parametrize(
    "given",
    [
        {"seed": 1},
        {"multi_scale": 0.5},
        {"close_mosaic": 0},
        {"single_cls": True},
        {"fraction": 0.5},
        {"classes": [0]},
        {"degrees": 45.0},
        {"mixup": 1.0, "close_mosaic": 0},
        {"rect": True},
    ],
    ids=lambda given: " ".join(given),
)
def test_a_setting_changes_the_weights(runs, given):
    assert not same(weights(runs()), weights(runs(**given)))


@pytest.mark.parametrize("given", [{"cache": "ram"}, {"cache": "disk", "workers": 1}, {"checkpointing": True}], ids=str)
def test_how_a_run_is_computed_changes_nothing(runs, given):
    assert same(weights(runs()), weights(runs(**given)))


def test_a_run_by_the_clock_ends_after_the_epoch_under_way(runs):
    name = runs(time=1e-9, epochs=50)
    assert len(Path(f"runs/{name}/results.csv").read_text().splitlines()) == 2
