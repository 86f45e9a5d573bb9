"""Objects as aligned rows: every field follows its object through selecting, joining and warping."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from bitfalcon_plugin.ops.encoded_masks import EncodedMasks
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.patches import Patches
from bitfalcon_plugin.ops.polygons import Polygons

MOVE = torch.tensor([[2.0, 0, 5], [0, 3, -4], [0, 0, 1]], dtype=torch.float64)  # x -> 2x + 5, y -> 3y - 4


def full() -> Instances:
    """Three objects with every field; the second has no polygon. Numbers tell to which object they belong."""
    boxes = torch.tensor([[1.0, 1, 11, 11], [2, 2, 22, 22], [3, 3, 33, 33]], dtype=torch.float64)
    points = torch.tensor([[1.0, 1], [11, 1], [11, 11], [3, 3], [33, 3], [33, 33], [3, 33]], dtype=torch.float64)
    return Instances(
        boxes,
        classes=torch.tensor([0, 1, 2]),
        scores=torch.tensor([0.1, 0.2, 0.3]),
        image=torch.tensor([0, 0, 1]),
        polygons=Polygons(points, torch.tensor([3, 0, 4])),
        masks=torch.eye(3, dtype=torch.bool)[:, None].expand(3, 4, 3),
        encoded_masks=EncodedMasks([{"size": [4, 3], "counts": bytes([48 + number])} for number in range(3)]),
        probabilities=torch.tensor([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]),
        coefficients=torch.arange(6.0).view(3, 2),
        keypoints=torch.arange(18, dtype=torch.float64).view(3, 2, 3),
        xywhr=torch.arange(15.0).view(3, 5),
    )


def plain(instances: Instances) -> list[dict[str, object]]:
    """One dict for each object, as a loop over rows would collect it."""
    rows = []
    for index in range(len(instances)):
        row = {}
        for field in fields(instances):
            value = getattr(instances, field.name)
            if isinstance(value, Polygons):
                row[field.name] = value.split()[index].tolist()
            elif isinstance(value, EncodedMasks):
                row[field.name] = value.codes[index]
            elif value is not None:
                row[field.name] = value[index].tolist()
        rows.append(row)
    return rows


@pytest.mark.parametrize("keep", [[True, False, True], [False] * 3, [True] * 3])
def test_a_mask_selects_whole_objects(keep):
    assert plain(full().only(torch.tensor(keep))) == [row for row, kept in zip(plain(full()), keep) if kept]


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 1, 2, 0], [], [1]])
def test_indices_select_in_their_order_and_more_than_once(order):
    chosen = full().only(torch.tensor(order, dtype=torch.int64))
    assert plain(chosen) == [plain(full())[index] for index in order]


def test_joining_keeps_every_row():
    first, second = full(), full().only(torch.tensor([2, 1]))
    assert plain(Instances.cat([first, second])) == plain(first) + plain(second)


def test_a_part_without_polygons_has_objects_without_polygons():
    boxes = Instances(torch.zeros(2, 4), torch.tensor([4, 5]))
    outlined = Instances(torch.zeros(1, 4), torch.tensor([6]), polygons=Polygons(torch.ones(3, 2), torch.tensor([3])))
    joined = Instances.cat([boxes, outlined])
    assert joined.has_polygon.tolist() == [False, False, True] and joined.classes.tolist() == [4, 5, 6]
    assert Instances.cat([boxes, boxes]).polygons is None and not boxes.has_polygon.any()
    with pytest.raises(ValueError, match="scores is missing"):
        Instances.cat([boxes, Instances(torch.zeros(1, 4), torch.tensor([0]), torch.tensor([0.5]))])


def test_every_tensor_goes_to_a_device():
    moved = replace(full(), patches=three_patches()).to("meta")
    others = ("polygons", "patches", "encoded_masks")
    tensors = [getattr(moved, field.name) for field in fields(moved) if field.name not in others]
    patches = moved.patches
    tensors += [moved.polygons.points, moved.polygons.counts, patches.stacks[0], patches.stack, patches.row]
    assert all(tensor.is_meta for tensor in (*tensors, patches.top, patches.left))


def three_patches() -> Patches:
    """Masks of one pixel each on planes of 4 x 3, the second without a pixel."""
    stack = torch.tensor([True, False, True])[:, None, None]
    numbers = torch.arange(3)
    return Patches((4, 3), [stack], torch.zeros_like(numbers), numbers, numbers, numbers)


def test_patches_follow_their_objects():
    known = replace(full(), patches=three_patches())
    assert known.visible.tolist() == [True, False, True] and full().visible.all()
    chosen = known.only(torch.tensor([2, 0]))
    assert chosen.patches.planes().nonzero().tolist() == [[0, 2, 2], [1, 0, 0]]
    with pytest.raises(ValueError, match="patches of several images"):
        Instances.cat([known, known])


def labels() -> Instances:
    """The objects of `full` as labels: without scores, masks and oriented boxes."""
    known = full()
    return Instances(known.boxes, known.classes, image=known.image, polygons=known.polygons, keypoints=known.keypoints)


def test_a_map_moves_boxes_polygons_and_keypoints_as_point_by_point():
    moved = labels().warp(MOVE.expand(3, 3, 3), (200, 300))
    assert moved.boxes[1].tolist() == [9, 2, 49, 62]  # the hull of its corners
    assert sorted(moved.polygons.split()[2].tolist()) == [[11, 5], [11, 95], [71, 5], [71, 95]]
    assert moved.boxes[2].tolist() == [11, 5, 71, 95]  # the hull of its polygon
    points = labels().keypoints
    assert torch.equal(moved.keypoints[..., 0], points[..., 0] * 2 + 5)
    assert torch.equal(moved.keypoints[..., 1], (points[..., 1] * 3 - 4).clamp(min=0))


def test_what_leaves_the_output_is_cut_and_its_keypoints_are_not_visible():
    moved = labels().warp(MOVE.expand(3, 3, 3), (20, 30))
    assert moved.boxes[:, 2].max() <= 30 and moved.boxes[:, 3].max() <= 20
    x, y, visibility = labels().keypoints.unbind(-1)
    x, y = x * 2 + 5, y * 3 - 4
    inside = (x >= 0) & (x <= 30) & (y >= 0) & (y <= 20)
    expected = torch.stack([x.clamp(0, 30), y.clamp(0, 20), visibility * inside], -1)
    assert torch.equal(moved.keypoints, expected) and 0 < inside.sum() < inside.numel()


def test_each_object_has_a_map_of_its_own():
    maps = torch.stack([torch.eye(3, dtype=torch.float64), MOVE, torch.eye(3, dtype=torch.float64)])
    moved = labels().warp(maps, (200, 300))
    assert torch.equal(moved.boxes[0], labels().boxes[0]) and moved.boxes[1].tolist() == [9, 2, 49, 62]


def test_scaling_is_a_map_too():
    scaled = labels().scaled(2, 3)
    stretched = labels().warp(torch.diag(torch.tensor([2.0, 3, 1], dtype=torch.float64)).expand(3, 3, 3), (900, 900))
    for one, other in zip(plain(scaled), plain(stretched), strict=True):
        assert one == other


@pytest.mark.parametrize("name", ["masks", "xywhr"])
def test_masks_and_oriented_boxes_are_made_after_a_map(name):
    known = full()
    with pytest.raises(ValueError, match=f"instances with {name} cannot be warped; make the {name} afterwards"):
        Instances(known.boxes, known.classes, **{name: getattr(known, name)}).warp(MOVE.expand(3, 3, 3), (9, 9))


def test_rows_of_detections_and_back():
    rows = torch.tensor([[1.0, 2, 3, 4, 0.5, 7], [5, 6, 7, 8, 0.25, 0]])
    detections = Instances.from_rows(rows)
    assert detections.classes.dtype == torch.int64 and torch.equal(detections.rows(), rows)
