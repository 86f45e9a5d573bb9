"""Fast NMS inside a file: it leaves what rotated suppression outside leaves."""

from __future__ import annotations

import io
import warnings

import pytest
import torch

from bitfalcon_plugin.export import rotated_nms
from bitfalcon_plugin.export.compare import MismatchError, compare
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.rotated_nms import RotatedSuppression
from bitfalcon_plugin.export.run import run_export
from bitfalcon_plugin.ops.rotated_nms import rotated_suppression
from tests.helpers.exports import WITH_NMS, made, needs_onnx, tiny_obb
from tests.ops.test_rotated_nms import CASES, WORDS, crowd, prediction_of

RULE = {"conf": 0.02, "iou": 0.5, "max_det": 60}


def padded(prediction: torch.Tensor, max_det: int, **rule) -> torch.Tensor:
    """What suppression outside leaves, with rows of zeros behind: (B, max_det, 7)."""
    images = rotated_suppression(prediction, max_det=max_det, nc=prediction.shape[1] - 5, **rule)
    return torch.stack([torch.cat((rows, rows.new_zeros(max_det - len(rows), 7))) for rows in images])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_recorded_detections(case):
    rule = {WORDS.get(name, name): value for name, value in case["arguments"].items()}
    if {key for key, value in rule.items() if value} - {"conf", "iou", "max_det", "agnostic", "nc"}:
        pytest.skip("several classes a box and a choice of classes are not for a file")
    boxes, scores = torch.tensor(case["xywh"]), torch.tensor(case["scores"])
    prediction = prediction_of(torch.cat([boxes, torch.tensor(case["angle"])[:, None]], 1), scores)
    suppression = RotatedSuppression(
        scores.shape[1], rule["conf"], rule["iou"], rule.get("max_det", 300), bool(rule.get("agnostic"))
    )
    expected = torch.tensor(case["rows_x_y_w_h_conf_cls_angle"]).view(-1, 7)
    (rows,) = suppression(prediction)
    torch.testing.assert_close(rows[: len(expected)], expected, rtol=0, atol=1e-3)
    assert not rows[len(expected) :].any()


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("max_det", [3, 60, 300])
@pytest.mark.parametrize("block", [7, 128])
def test_crowds_with_equal_scores(monkeypatch, agnostic, max_det, block):
    monkeypatch.setattr(rotated_nms, "BLOCK", block)
    rule = {**RULE, "max_det": max_det, "agnostic": agnostic}
    prediction = torch.cat((crowd(400, 3), crowd(400, 3, seed=1), crowd(400, 3, seed=2) * 0))
    rows = RotatedSuppression(3, **rule)(prediction)
    assert torch.equal(rows, padded(prediction, **rule)) and rows[0].any()
    short = RotatedSuppression(3, **rule)(prediction[:, :, :2])
    assert torch.equal(short, padded(prediction[:, :, :2], **rule))


def test_the_best_candidates_alone_take_part_and_memory_is_bounded(monkeypatch):
    """As outside of the file; here with a limit of 250 in the place of 30,000."""
    for module in ("ops.nms", "export.rotated_nms", "ops.rotated_nms"):
        monkeypatch.setattr(f"bitfalcon_plugin.{module}.MAX_CANDIDATES", 250)
    rule, prediction, sizes = {**RULE, "max_det": 300}, crowd(900, 2), []
    overlap = rotated_nms.gaussian_overlap

    def measured(a, b):
        result = overlap(a, b)
        sizes.append(result.shape)
        return result

    monkeypatch.setattr(rotated_nms, "gaussian_overlap", measured)
    assert torch.equal(RotatedSuppression(2, **rule)(prediction), padded(prediction, **rule))
    assert [tuple(size) for size in sizes] == [(1, 128, 128), (1, 122, 250)]
    sizes.clear()
    RotatedSuppression(2, **{**rule, "max_det": 1})(prediction)
    assert len(sizes) == 1


@needs_onnx
@pytest.mark.parametrize("opset", [11, 17, 20])
def test_other_runtimes_keep_the_same_boxes(opset):
    import onnxruntime

    suppression, example = RotatedSuppression(3, **RULE), crowd(300, 3)
    buffer, axes = io.BytesIO(), {"x": {0: "b", 2: "a"}, "y": {0: "b"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
        torch.onnx.export(suppression, (example,), buffer, dynamo=False, opset_version=opset, **names)
        traced = torch.jit.trace(suppression, (example,), check_trace=False)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    for prediction in (example, torch.cat((crowd(900, 3, 4), crowd(900, 3, 5))), example[:, :, :1], example * 0):
        expected = padded(prediction, **RULE)
        (rows,) = session.run(None, {"x": prediction.numpy()})
        torch.testing.assert_close(torch.from_numpy(rows), expected, rtol=0, atol=1e-3)
        torch.testing.assert_close(traced(prediction), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("format_", WITH_NMS)
def test_suppression_inside_leaves_what_suppression_outside_leaves(folder, format_):
    model, rule = tiny_obb(), {"conf": 0.3, "iou": 0.4, "max_det": 40}
    path = run_export(model, made(format=format_, dynamic=True, nms=True, **rule), "small.yaml").path
    engine, images = open_exported(path, "cpu"), torch.rand(2, 3, 64, 48)
    rows = engine(images)
    with torch.inference_mode():
        expected = padded(model.decode(model(images)), **rule)
    assert rows.shape == (2, 40, 7) and engine.suppressed and (expected[:, 3, 4] > 0).all()
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-3)
    again = rotated_suppression(engine.decode(rows), conf=0.25, iou=0.7, nc=2)  # as predict and val do
    assert all(torch.equal(one, other[other[:, 4] > 0]) for one, other in zip(again, rows, strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rows: rows[:, :5],
        lambda rows: torch.cat((rows[:, :1], rows[:, :-1]), 1),
        lambda rows: rows + rows.new_tensor([0.1, 0, 0, 0, 0, 0, 0]),
        lambda rows: rows + rows.new_tensor([0, 0, 0, 0, 0, 0, 0.01]),
        lambda rows: rows[:, :, [0, 1, 3, 2, 4, 5, 6]],
        lambda rows: rows[:, :, :6],
    ],
)
def test_wrong_detections_are_seen(wrong):
    model, suppression = tiny_obb().fuse(), RotatedSuppression(2, 0.2, 0.3, 60)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        rows = suppression(model.decode(model(images)))
    agreement = compare(model, lambda _: rows, [images], "float32", suppression)
    assert agreement.matched == agreement.count > 50 and "rad in angles" in agreement.describe()
    with pytest.raises(MismatchError):
        compare(model, lambda _: wrong(rows), [images], "float32", suppression)


def test_what_greedy_or_upright_suppression_keeps_is_seen():
    model, images = tiny_obb().fuse(), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        prediction = model.decode(model(images))
    loose = RotatedSuppression(2, 0.2, 0.6, 60)(prediction)
    with pytest.raises(MismatchError):
        compare(model, lambda _: loose, [images], "float32", RotatedSuppression(2, 0.2, 0.3, 60))
    strict = RotatedSuppression(2, 0.2, 0.3, 60)(prediction)
    with pytest.raises(MismatchError):
        compare(model, lambda _: strict, [images], "float32", RotatedSuppression(2, 0.2, 0.6, 60))
