"""Every model YAML, shipped or of a user's kind, at every size: it builds, runs, and has the size its owner expects.

Sizes are checked against a count that knows nothing of the program: a sum over rows of formulas written by hand from
the description of each module.
"""

from __future__ import annotations

import copy
import math
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

import bitfalcon_plugin.models.summary as module
from bitfalcon_plugin.config.files import cfg_dir
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.summary import summary
from tests.helpers.tiny_models import shapes_are_quick  # noqa: F401  the fixture
from tests.models import test_conformance_classify, test_conformance_pose_obb, test_conformance_segment

SHIPPED = sorted((cfg_dir() / "models").glob("*.yaml"))
FAMILIES = ("yolov8", "yolo11", "yolov12", "yolov12-turbo")
FOUR_LEVELS = [path for path in SHIPPED if path.stem[-3:] in ("-p2", "-p6")]
MORE = {"segment": 32, "pose": 51, "obb": 1}  # decoded values of an anchor beyond its box and classes
WITHOUT_LEVELS = [path for path in SHIPPED if path.stem.endswith("-cls")]
LEVELS = {"yolov12-lite": (16.0,), "p2": (4.0, 8.0, 16.0, 32.0), "p6": (8.0, 16.0, 32.0, 64.0)}


def scales(path: Path) -> list[str]:
    return list(yaml.safe_load(path.read_text())["scales"])


def cases(paths: list[Path]) -> list:
    return [pytest.param(path, scale, id=f"{path.stem}-{scale}") for path in paths for scale in scales(path)]


def cases_to_run() -> list:
    """Scale n of every graph with three levels, and of each family's detection m and l, whose blocks differ from n's.

    The other scales differ in widths and repeats, which `shapes_only` runs.
    """
    paths = [path for path in SHIPPED if path not in (*FOUR_LEVELS, *WITHOUT_LEVELS)]
    return [
        case
        for case in cases(paths)
        if case.values[1] == "n" or case.values[0].stem in FAMILIES and case.values[1] in "ml"
    ]


@cache
def shapes_only(path: Path, scale: str, nc: int = 3, variant: str | None = None) -> Detector:
    with torch.device("meta"):
        return build(path, scale, nc=nc, variant=variant)


def test_there_is_something_to_test():
    assert {path.stem for path in SHIPPED} == {
        "yolov12",
        "yolov12-turbo",
        "yolo11",
        "yolov8",
        "bitfalcon",
        "bitfalcon-p",
        "yolov12-lite",
        *(f"{family}-{task}" for family in FAMILIES for task in ("seg", "cls", "pose", "obb")),
        *(f"{family}-{level}" for family in FAMILIES if family != "yolov12-turbo" for level in ("p2", "p6", "seg-p6")),
        "yolov8-pose-p6",
    }


@pytest.mark.parametrize(("path", "scale"), cases_to_run())
def test_shipped_models_run_and_have_a_summary(path, scale):
    model = build(path, scale).eval()
    assert model.graph.scale == scale
    assert model.strides == LEVELS.get(path.stem, (8.0, 16.0, 32.0))
    for batch, height, width in ((1, 64, 96), (2, 32, 64)):
        with torch.inference_mode():
            raw = model(torch.rand(batch, 3, height, width))
            prediction = model.decode(raw)
        cells = sum(int(height // s) * int(width // s) for s in model.strides)
        assert raw["boxes"].shape == (batch, 4 * model.reg_max, cells)
        assert raw["scores"].shape == (batch, model.nc, cells)
        assert prediction.shape == (batch, 4 + model.nc + MORE.get(model.task, 0), cells)
        scores = prediction[:, 4 : 4 + model.nc]
        assert prediction.isfinite().all() and (scores >= 0).all() and (scores <= 1).all()
    check_summary(model, fixed=model.reg_max)  # the bins of the distribution are fixed


def check_summary(model: Detector, fixed: int) -> None:
    """Compare the summary of a model with its modules. fixed: parameters without gradients."""
    sizes = summary(model, 64)
    assert [row[0] for row in sizes.rows] == list(range(len(model.graph.rows)))
    assert sum(row[3] for row in sizes.rows) == sizes.parameters == sum(p.numel() for p in model.parameters())
    assert sizes.gradients == sizes.parameters - fixed
    assert sizes.gflops > 0


@pytest.mark.parametrize("path", WITHOUT_LEVELS, ids=lambda path: path.stem)
def test_graphs_of_whole_images_run_and_have_a_summary(path):
    model = build(path, "n", nc=7).eval()
    assert (model.strides, model.multiple) == ((1.0,), 32)
    for batch, height, width in ((1, 64, 96), (2, 32, 64)):
        with torch.inference_mode():
            probabilities = model.decode(model(torch.rand(batch, 3, height, width)))
        assert probabilities.shape == (batch, 7) and torch.allclose(probabilities.sum(1), torch.ones(batch))
    check_summary(model, fixed=0)


@pytest.mark.parametrize(("path", "scale"), cases(FOUR_LEVELS))
def test_graphs_with_four_levels_build(path, scale):
    model = shapes_only(path, scale)
    assert model.strides == LEVELS[path.stem[-2:]]
    assert model.multiple == max(model.strides)


@pytest.mark.parametrize("path", FOUR_LEVELS, ids=lambda path: path.stem)
def test_graphs_with_four_levels_run_and_name_the_sides_that_fit(path):
    model = build(path.name.replace("-", "n-", 1)).eval()  # a name with a letter; the file has none
    assert model.graph.scale == "n" and model.graph.name == path.name
    with torch.inference_mode():
        prediction = model.decode(model(torch.rand(1, 3, 128, 64)))
    cells = sum(int(128 // s) * int(64 // s) for s in model.strides)
    assert prediction.shape == (1, 4 + model.nc + MORE.get(model.task, 0), cells) and prediction.isfinite().all()
    if model.multiple == 64:
        with pytest.raises(ValueError, match=r"96x160.*multiples of 64.*nearest are 128x192"):
            model(torch.rand(1, 3, 96, 160))


# Sizes, by hand


def conv(a: int, b: int, k: int = 1, g: int = 1) -> int:
    return a * b * k * k // g + 2 * b


def bottleneck(a: int, b: int, e: float, first: int = 3) -> int:
    hidden = int(b * e)
    return conv(a, hidden, first) + conv(hidden, b, 3)


def c2(a: int, b: int, n: int) -> int:
    hidden = b // 2
    return conv(a, 2 * hidden) + conv(2 * hidden, b) + n * bottleneck(hidden, hidden, 1.0)


def c2f(a: int, b: int, n: int, block: int, e: float = 0.5) -> int:
    hidden = int(b * e)
    return conv(a, 2 * hidden) + conv((2 + n) * hidden, b) + n * block


def c3k(width: int) -> int:
    hidden = width // 2
    return 2 * conv(width, hidden) + conv(2 * hidden, width) + 2 * bottleneck(hidden, hidden, 1.0)


def c3k2(a: int, b: int, n: int, scale: str, deep: bool = False, e: float = 0.5) -> int:
    hidden = int(b * e)
    return c2f(a, b, n, c3k(hidden) if deep or scale in "mlx" else bottleneck(hidden, hidden, 0.5), e)


def a2c2f(a: int, b: int, n: int, scale: str, variant: str, attends: bool) -> int:
    hidden = b // 2
    size = conv(a, hidden) + conv((1 + n) * hidden, b)
    if not attends:
        return size + n * c3k(hidden)
    side = 7 if variant == "v1" else 5
    large = {"v1": 1.2, "turbo": 1.5, "turbo-all-residual": 1.0}[variant]
    wide = int(hidden * (large if scale in "lx" else 2.0))
    block = (
        conv(hidden, 3 * hidden)
        + conv(hidden, hidden)
        + conv(hidden, hidden, side, hidden)
        + conv(hidden, wide)
        + conv(wide, hidden)
    )
    gamma = b if scale in "lx" or variant == "turbo-all-residual" else 0
    return size + 2 * n * block + gamma


def c2psa(width: int, n: int) -> int:
    hidden = width // 2
    attention = conv(hidden, 2 * hidden) + conv(hidden, hidden) + conv(hidden, hidden, 3, hidden)
    return 2 * conv(width, width) + n * (attention + conv(hidden, 2 * hidden) + conv(2 * hidden, hidden))


def detect(levels: list[int], nc: int, legacy: bool) -> int:
    box, hidden = max(16, levels[0] // 4, 64), max(levels[0], min(nc, 100))
    size = 16
    for a in levels:
        size += conv(a, box, 3) + conv(box, box, 3) + box * 64 + 64 + hidden * nc + nc
        size += (
            conv(a, hidden, 3) + conv(hidden, hidden, 3)
            if legacy
            else (conv(a, a, 3, a) + conv(a, hidden) + conv(hidden, hidden, 3, hidden) + conv(hidden, hidden))
        )
    return size


def more_branches(levels: list[int], values: int) -> int:
    hidden = max(levels[0] // 4, values)
    return sum(conv(a, hidden, 3) + conv(hidden, hidden, 3) + hidden * values + values for a in levels)


def segment(levels: list[int], nc: int, legacy: bool, masks: int, wide: int) -> int:
    first = levels[0]
    prototypes = conv(first, wide, 3) + (wide * wide * 4 + wide) + conv(wide, wide, 3) + conv(wide, masks)
    return detect(levels, nc, legacy) + more_branches(levels, masks) + prototypes


def size_by_hand(document: dict, scale: str, nc: int, variant: str) -> int:
    depth, width, limit = document["scales"][scale]
    widths: list[int] = []
    total, legacy = 0, True
    for source, n, name, args in document["backbone"] + document["head"]:
        listed = [widths[f] if widths else 3 for f in (source if isinstance(source, list) else [source])]
        a = listed[0]
        n = max(round(n * depth), 1) if n > 1 else n  # Python rounds a half to even, as it should
        b = math.ceil(min(args[0], limit) * width / 8) * 8 if isinstance(args[0], int) else 0
        legacy = legacy and name not in ("C3k2", "A2C2f")
        match name:
            case "Conv":
                total += conv(a, b, args[1], args[4] if len(args) > 4 else 1)
            case "C2f":
                total += c2f(a, b, n, bottleneck(b // 2, b // 2, 1.0))
            case "C2":
                total += c2(a, b, n)
            case "C3k2":
                total += c3k2(a, b, n, scale, *args[1:])
            case "A2C2f":
                total += a2c2f(a, b, n, scale, variant, args[1])
            case "SPPF":
                total += conv(a, a // 2) + conv(4 * (a // 2), b)
            case "C2PSA":
                total += c2psa(b, n)
            case "Detect":
                total += detect(listed, nc, legacy)
            case "Segment":
                wide = math.ceil(min(args[2], limit) * width / 8) * 8
                total += segment(listed, nc, legacy, args[1], wide)
            case "Pose":
                total += detect(listed, nc, legacy) + more_branches(listed, document["kpt_shape"][0] * 3)
            case "OBB":
                total += detect(listed, nc, legacy) + more_branches(listed, 1)
            case "Classify":
                total += conv(a, 1280) + 1280 * nc + nc
            case "Concat":
                b = sum(listed)
            case "nn.Upsample":
                b = a
            case _:
                raise AssertionError(name)
        widths.append(b)
    return total


COUNTED = [path for path in SHIPPED if path.stem not in ("bitfalcon", "bitfalcon-p", "yolov12-lite")]
# Graphs whose sizes tests/models compares with the published ones in every scale; here they are counted in one.
RECORDED = {
    *test_conformance_classify.PARAMETERS,
    *test_conformance_pose_obb.PARAMETERS,
    *test_conformance_segment.PARAMETERS,
}


@pytest.mark.parametrize(
    ("path", "scale"), [case for case in cases(COUNTED) if case.values[1] == "n" or case.values[0].stem not in RECORDED]
)
def test_sizes_are_those_of_the_formulas(path, scale):
    document = yaml.safe_load(path.read_text())
    expected = size_by_hand(document, scale, 3, document.get("variant", "v1"))
    assert sum(p.numel() for p in shapes_only(path, scale).parameters()) == expected


@pytest.mark.parametrize("variant", ["v1", "turbo", "turbo-all-residual"])
@pytest.mark.parametrize("scale", ["n", "m", "l"])
def test_each_family_fills_in_its_own_attention(variant, scale):
    graph = "yolov12.yaml" if variant == "v1" else "yolov12-turbo.yaml"
    document = yaml.safe_load((cfg_dir() / "models" / graph).read_text())
    model = shapes_only(Path("yolov12.yaml"), scale, variant=variant)
    assert model.graph.name == graph and model.graph.variant == variant
    assert sum(p.numel() for p in model.parameters()) == size_by_hand(document, scale, 3, variant)


# (layers, parameters, and both when folded), GFLOPs (spec/interface.md section 4; GFLOPs: spec/families.md section 3)
PUBLISHED = {
    "yolov12n": ((272, 2602288, 159, 2590824), 7.5),
    "yolov12s": ((272, 9284096, 159, 9261840), 23.3),
    "yolov12m": ((292, 20199168, 169, 20166592), 70.7),
    "yolov12l": ((488, 26450784, 283, 26400752), 95.4),
    "yolov12x": ((488, 59210784, 283, 59135744), None),
    "yolov12n-turbo": ((None, 2553904, None, 2542440), None),
    "yolov12s-turbo": ((None, 9127424, None, 9105168), None),
    "yolov12m-turbo": ((None, 19670784, None, 19638208), None),
    "yolov12l-turbo": ((None, 26506496, None, 26455232), None),
    "yolov12x-turbo": ((None, 59414176, None, 59337280), None),
    "yolo11n": ((181, 2624080, 100, 2616248), 6.5),
    "yolov8n": ((129, 3157200, 72, 3151904), 8.7),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name, monkeypatch):
    sizes, gflops = PUBLISHED[name]
    model = shapes_only(Path(f"{name}.yaml"), "", nc=80)
    if gflops is not None:
        assert round(summary(model, 640).gflops, 1) == gflops
    monkeypatch.setattr(module, "_flops", lambda *_: 0)  # counting operations takes longer than all the rest
    before, after = summary(model), summary(copy.deepcopy(model).fuse())
    counts = (before.layers, before.parameters, after.layers, after.parameters)
    assert [count for count, size in zip(counts, sizes) if size] == [size for size in sizes if size]
    assert before.gradients == before.parameters - 16
