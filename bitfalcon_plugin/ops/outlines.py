"""Outlines of masks: the border pixels of each connected part, in order, and one ring through all parts.

A border is followed along the edges between pixels (cracks; Rosenfeld, "Connectivity in digital pictures", JACM 17,
1970), with the object on the left hand. Pixels that touch at a corner belong together. The pixels on the left of the
edges are the outline; it is the one that border following of pixels gives (Suzuki and Abe, CVGIP 30, 1985). Holes, and
what lies inside of holes, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

MOST_RINGS = 64  # larger numbers of rings are joined with less care for short bridges
# Directions: 0 down, 1 right, 2 up, 3 left, as seen on the screen. An edge leaves from a corner (row, column); the
# corner (r, c) is the upper left one of pixel (r, c).
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
# The pixel to the left of an edge, and that to its right, as offsets from the corner where the edge begins.
LEFT = ((0, 0), (-1, 0), (-1, -1), (0, -1))
RIGHT = ((0, -1), (0, 0), (-1, 0), (-1, -1))


def rings_of(mask: np.ndarray) -> list[np.ndarray]:
    """Return the outer outline of each connected part of a mask (h, w), as (k, 2) int32 x, y of border pixels.

    The parts come from top to bottom. A ring begins at the leftmost pixel of the part's first row, goes down along the
    left side, and has a point only where its direction changes. It is not closed: the first point is not repeated.
    """
    mask = np.asarray(mask) > 0
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    inner = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    borders = _outer_borders(inner)
    if len(borders) > 1:
        borders = _outermost(borders, inner.shape)
    return [_turns(edges) + np.asarray([left, top], np.int32) for edges in borders]


def _outer_borders(mask: np.ndarray) -> list[np.ndarray]:
    """Return the outer borders of a mask as edges (k, 3) int64: row and column of a border pixel, and direction."""
    borders = []
    for edges in _cycles(mask):
        if edges[0] % 4 == 0:  # the topmost edges of a hole lead to the right or to the left, never down
            corner, direction = np.divmod(edges, 4)
            row, column = np.divmod(corner, mask.shape[1] + 1)
            offset = np.asarray(LEFT)[direction]
            borders.append(np.stack((row + offset[:, 0], column + offset[:, 1], direction), 1))
    return borders


def _cycles(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Yield each border of a mask as the codes (k,) of its edges in order, from its top left one on."""
    height, width = mask.shape
    padded = np.zeros((height + 2, width + 2), bool)
    padded[1:-1, 1:-1] = mask
    codes, successors = [], []
    for direction in range(4):
        row, column = _edges(padded, direction)
        codes.append(_code(row, column, direction, width))
        successors.append(_next_code(padded, row, column, direction, width))
    code = np.concatenate(codes)
    order = np.argsort(code)
    code = code[order]
    following = np.searchsorted(code, np.concatenate(successors)[order]).tolist()
    visited = bytearray(len(code))
    # Codes grow row by row, so that the first edge of a border that is not visited is the top left one.
    for start in range(len(following)):
        if visited[start]:
            continue
        cycle, edge = [], start
        while not visited[edge]:
            visited[edge] = 1
            cycle.append(edge)
            edge = following[edge]
        yield code[np.asarray(cycle)]


def _edges(padded: np.ndarray, direction: int) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column of the corners where edges of a direction begin."""
    is_edge = _shifted(padded, LEFT[direction]) > _shifted(padded, RIGHT[direction])
    return np.divmod(np.flatnonzero(is_edge), is_edge.shape[1])


def _shifted(padded: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """Return for each corner of the mask, (h + 1, w + 1), the pixel at an offset of -1 or 0 from it."""
    height, width = padded.shape
    row, column = offset[0] + 1, offset[1] + 1
    return padded[row : row + height - 1, column : column + width - 1]


def _code(row: np.ndarray, column: np.ndarray, direction, width: int) -> np.ndarray:
    return (row * (width + 1) + column) * 4 + direction


def _next_code(padded: np.ndarray, row: np.ndarray, column: np.ndarray, direction: int, width: int) -> np.ndarray:
    """Return the code of the edge that follows each edge of a direction."""
    row, column = row + STEPS[direction][0], column + STEPS[direction][1]
    ahead_left = padded[row + LEFT[direction][0] + 1, column + LEFT[direction][1] + 1]
    ahead_right = padded[row + RIGHT[direction][0] + 1, column + RIGHT[direction][1] + 1]
    turn = np.where(ahead_right, 3, np.where(ahead_left, 0, 1))  # to the right, straight on, to the left
    return _code(row, column, (direction + turn) % 4, width)


def _turns(edges: np.ndarray) -> np.ndarray:
    """Return the pixels of a border, (k, 2) int32 x, y, where the direction from pixel to pixel changes."""
    pixels = edges[:, 1::-1].astype(np.int32)
    moved = (pixels != np.roll(pixels, 1, 0)).any(1)
    if not moved.any():
        return pixels[:1]  # a single pixel
    pixels = np.roll(pixels[moved], 1, 0)  # the last edge lies on the first pixel again
    before, after = pixels - np.roll(pixels, 1, 0), np.roll(pixels, -1, 0) - pixels
    return pixels[(before != after).any(1)]


def _outermost(borders: list[np.ndarray], shape: tuple[int, int]) -> list[np.ndarray]:
    """Leave out the borders that lie inside of another one, in a hole."""
    edges = np.concatenate(borders)
    edges = edges[edges[:, 2] % 2 == 0]
    is_up = edges[:, 2] == 2
    depth = np.zeros((shape[0], shape[1] + 1), np.int32)
    # An edge that leads down lies on the left side of its pixel, one that leads up on the right side.
    np.add.at(depth, (edges[:, 0], edges[:, 1] + is_up), np.where(is_up, -1, 1))
    depth = depth.cumsum(1)  # of each pixel: the number of borders around it
    return [border for border in borders if depth[border[0, 0], border[0, 1]] == 1]


def one_ring(rings: list[np.ndarray]) -> np.ndarray:
    """Return one ring (k, 2) through several: bridges lead from ring to ring and back, between nearest points.

    It begins with the largest ring; the ring nearest to what is joined already comes next, and so on (Prim's order).
    Of many rings this holds for the largest MOST_RINGS, and each smaller one is joined to the nearest of these. Without
    rings (0, 2).
    """
    if len(rings) < 2:
        return rings[0] if rings else np.zeros((0, 2), np.int32)
    rings = sorted(rings, key=_area, reverse=True)
    points = np.concatenate(rings)
    counts = [len(ring) for ring in rings]
    owner, ends = np.repeat(np.arange(len(rings)), counts), np.cumsum(counts)
    large = points[: ends[:MOST_RINGS][-1]].astype(np.float32)
    bridges = _bridges(large, owner[: len(large)])
    for start in ends[MOST_RINGS - 1 : -1].tolist():
        near = int(((large - points[start]) ** 2).sum(1).argmin())
        bridges.setdefault(near, []).append(start)

    def around(ring: int, first: int) -> list[int]:
        """Return the indices of a ring's points, from the point `first` on."""
        return [*range(first, ends[ring]), *range(ends[ring] - counts[ring], first)]

    order, waiting = [], around(0, 0)[::-1]
    while waiting:
        point = waiting.pop()
        order.append(point)
        for far in bridges.pop(point, ()):  # there, around, and back
            waiting += reversed([*around(int(owner[far]), far), far, point])
    return points[order]


def _bridges(points: np.ndarray, owner: np.ndarray) -> dict[int, list[int]]:
    """Return the bridges that join all rings to ring 0: point of a joined ring -> points of other rings."""
    bridges: dict[int, list[int]] = {}
    outside = (owner != 0).nonzero()[0]  # points of rings that are not joined yet
    distance, nearest = np.full(len(points), np.inf, np.float32), np.zeros(len(points), np.int64)
    added = (owner == 0).nonzero()[0]
    while len(outside):
        squared = ((points[outside, None] - points[added]) ** 2).sum(2)  # (outside, added)
        best = squared.argmin(1)
        closest = squared[np.arange(len(outside)), best]
        is_closer = closest < distance[outside]
        distance[outside[is_closer]] = closest[is_closer]
        nearest[outside[is_closer]] = added[best[is_closer]]
        far = int(outside[distance[outside].argmin()])
        bridges.setdefault(int(nearest[far]), []).append(far)
        added, outside = (owner == owner[far]).nonzero()[0], outside[owner[outside] != owner[far]]
    return bridges


def _area(ring: np.ndarray) -> float:
    """Return twice the area of a ring."""
    x, y = ring.astype(np.float64).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def edge_rings(mask: np.ndarray) -> list[np.ndarray]:
    """Return the borders of a mask (h, w) along the edges of its pixels, holes too, as (k, 2) float64 x, y.

    By the even-odd rule the rings hold the pixels of the mask and no others: pixel (x, y) reaches from x to x + 1. A
    ring has a point only where its direction changes, and is not closed.
    """
    mask = np.asarray(mask) > 0
    rings = []
    for edges in _cycles(mask):
        corner, direction = np.divmod(edges, 4)
        turns = direction != np.roll(direction, 1)
        row, column = np.divmod(corner[turns], mask.shape[1] + 1)
        rings.append(np.stack((column, row), 1).astype(np.float64))
    return rings
