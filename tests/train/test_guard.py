"""Steps that are not finite are left out, undone and named once; the third in a row ends it. The search for a batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.train.batch_size import fitting_batch, search_batch
from bitfalcon_plugin.train.guard import MAX_IN_A_ROW, Guard, NotFinite


def guard_of(model: nn.Module | None = None) -> Guard:
    return Guard(model or nn.Sequential(nn.BatchNorm2d(2)), lambda indices: [f"img{i}.jpg" for i in indices])


def good(guard: Guard) -> None:
    guard.watch(torch.tensor(1.0), [0])
    assert guard.is_finite(torch.tensor(2.0))
    guard.accept()


@pytest.mark.parametrize(
    "loss, norm", [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan")), (1.0, float("inf"))]
)
def test_a_loss_or_a_gradient_that_is_not_finite_is_seen(loss, norm):
    guard = guard_of()
    guard.watch(torch.tensor(1.0), [0])
    guard.watch(torch.tensor(loss), [1])
    assert not guard.is_finite(torch.tensor(norm))


def test_the_statistics_of_a_bad_batch_are_undone():
    model = nn.Sequential(nn.BatchNorm2d(2)).train()
    guard = guard_of(model)
    model(torch.randn(4, 2, 3, 3))
    good(guard)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.full((4, 2, 3, 3), float("nan")))
    assert not model[0].running_mean.isfinite().any()
    guard.watch(torch.tensor(float("nan")), [3])
    guard.skip("here")
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_images_are_named_once_and_only_those_of_the_bad_batch(capsys):
    guard = guard_of()
    for _ in range(2):
        guard.watch(torch.tensor(1.0), [0, 1])
        guard.watch(torch.tensor(float("nan")), [2, 3])
        guard.skip("epoch 1, batch 2")
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2
    assert "img2.jpg, img3.jpg" in notes[0] and "img0" not in notes[0] and "the loss" in notes[0]
    assert "img" not in notes[1] and "2 so far" in notes[1]
    good(guard)
    guard.watch(torch.tensor(1.0), [8])
    guard.skip("there")
    note = capsys.readouterr().err
    assert "the gradient" in note and "img8.jpg" in note and "1 in a row" in note


def test_the_third_in_a_row_raises_and_a_good_step_between_does_not():
    guard = guard_of()
    for _ in range(MAX_IN_A_ROW - 1):
        guard.skip("x")
    good(guard)
    for _ in range(MAX_IN_A_ROW - 1):
        guard.skip("x")
    with pytest.raises(NotFinite, match="3 in a row"):
        guard.skip("x")
    assert guard.skipped == 2 * MAX_IN_A_ROW - 1


def test_a_batch_is_found_on_the_line_through_the_peaks():
    peaks = [(batch, 1e9 + batch * 5e8) for batch in (1, 2, 4, 8, 16)]  # 1 GB and half a GB an image
    assert fitting_batch(peaks, 21e9) == 40
    assert fitting_batch(peaks[:1], 2e9) == 1
    assert fitting_batch([(1, 1e9), (2, 2e9), (4, 9e9)], 4e9) in (2, 3)  # what failed is never taken
    assert fitting_batch([(1, 5.0), (2, 5.0), (4, 5.0)], 10.0) == 4  # flat: no further than was tried
    with pytest.raises(UserError, match="A batch of 1 takes 2.0 GiB"):
        fitting_batch([(1, 2.0 * 2**30)], 2**30)


def test_without_a_gpu_the_usual_batch_is_taken_and_said(capsys):
    assert search_batch(nn.Identity(), -1, 64, torch.device("cpu"), None) == 16
    assert "using 16 on cpu" in capsys.readouterr().err
