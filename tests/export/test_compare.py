"""What counts as agreement of two programs that compute the same network: for exports and for the benchmark."""

from __future__ import annotations

import pytest
import torch

from bitfalcon_plugin.export.compare import MIN_CANDIDATES as FEW
from bitfalcon_plugin.export.compare import TOLERANCES, Agreement, MismatchError, compare_decoded
from bitfalcon_plugin.tasks.detect import Decoded

SHAPE = (1, 3, 64, 64)


def candidates(*boxes, nc=2, images=1):
    """Decoded predictions (images, 4+nc, A), the same for each image, of boxes (x, y, w, h, class, score)."""
    decoded = torch.zeros(images, 4 + nc, len(boxes))
    for anchor, (x, y, w, h, label, score) in enumerate(boxes):
        decoded[:, :4, anchor] = torch.tensor([x, y, w, h], dtype=torch.float32)
        decoded[:, 4 + label, anchor] = score
    return decoded


def many(*boxes, score=0.01):
    """The boxes, and so many others with a low score that no box of a lower one is compared."""
    return candidates(*boxes, *[(20, 20, 10, 10, 0, score)] * FEW)


def compared(reference, other, kind="float32"):
    return compare_decoded(Decoded(reference, 2), Decoded(other, 2), TOLERANCES[kind], SHAPE)


def test_equal_predictions_agree_wholly_and_shifted_ones_by_the_shift():
    reference = candidates((20, 20, 10, 10, 0, 0.9), (60, 60, 20, 10, 1, 0.5), (90, 20, 8, 8, 0, 0.1), images=2)
    assert compared(reference, reference) == Agreement(0.0, 0.0, 6, 6, 2)
    other = reference.clone()
    other[0, 0, 0] += 1.5  # x
    other[0, 5, 1] += 0.2
    agreement = compared(reference, other)
    assert (agreement.pixels, agreement.matched, agreement.count) == (1.5, 4, 6)
    assert agreement.score == pytest.approx(0.2)


@pytest.mark.parametrize("kind, pixels, score", [("float32", 0.031, 0.0008), ("half", 3.1, 0.035), ("int8", 9.5, 0.14)])
def test_a_box_agrees_up_to_the_tolerance_of_its_precision(kind, pixels, score):
    reference = candidates((30, 30, 10, 10, 0, 0.9))
    for moved, surer, matched in ((pixels, score, 1), (1.05 * pixels, score, 0), (pixels, 1.2 * score, 0)):
        other = reference.clone()
        other[0, 0] += moved
        other[0, 4] += surer
        assert compared(reference, other, kind).matched == matched


def test_another_class_and_another_place_do_not_agree():
    reference = candidates((20, 20, 10, 10, 0, 0.9), (60, 60, 10, 10, 1, 0.8))
    other = candidates((20, 20, 10, 10, 1, 0.9), (66, 60, 10, 10, 1, 0.8))
    assert compared(reference, other, "half") == Agreement(6.0, pytest.approx(0.9), 0, 2, 1)


def test_a_box_that_only_one_of_the_two_is_sure_of_counts():
    sure, unsure = many((20, 20, 10, 10, 0, 0.9)), many((20, 20, 10, 10, 0, 0.001))
    for reference, other in ((sure, unsure), (unsure, sure)):
        agreement = compared(reference, other)
        assert agreement.count - agreement.matched == 1 and agreement.score > 0.8


def test_where_the_reference_is_unsure_its_best_boxes_are_compared():
    reference = many((20, 20, 10, 10, 0, 0.001), (60, 60, 10, 10, 1, 0.002))
    assert compared(reference, reference) == Agreement(0.0, 0.0, FEW, FEW, 1)
    nothing = candidates((20, 20, 10, 10, 0, 0.0))
    assert compared(nothing, nothing) == Agreement(0.0, 0.0, 1, 1, 1)


def test_another_shape_and_numbers_that_are_not_finite_are_no_agreement():
    reference = candidates((20, 20, 10, 10, 0, 0.9), (60, 60, 10, 10, 1, 0.8))
    with pytest.raises(MismatchError, match=r"\(1, 6, 1\) in the place of \(1, 6, 2\)"):
        compared(reference, reference[..., :1])
    for value in (torch.nan, torch.inf):
        other = reference.clone()
        other[0, 0, 0] = value
        with pytest.raises(MismatchError, match="not finite"):
            compared(reference, other)


def test_agreements_of_batches_add_up():
    one, two = Agreement(1.0, 0.1, 3, 4, 1, " (why)"), Agreement(0.5, 0.2, 5, 5, 2)
    assert one + two == Agreement(1.0, 0.2, 8, 9, 3, " (why)")
    assert (one + two).describe() == "largest difference 1 px, 0.2 in score; 8 of 9 boxes matched on 3 images (why)"
