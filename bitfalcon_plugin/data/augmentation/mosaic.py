"""Mosaic: four tiles around a drawn centre, laid out on the canvas of one scene.

Bochkovskiy et al., YOLOv4, arXiv:2004.10934; written from spec/interface.md (section 6.6).
"""

from __future__ import annotations

from collections.abc import Sequence

from .compose import Canvas, Pasted, Tile


def lay_out_scene(
    tile: Tile, pool: Sequence[Tile], mosaic: float, row: Sequence[float], canvas: Canvas
) -> list[Pasted]:
    """Return a mosaic of `tile` (top left) and three partners around a drawn centre, or `tile` in the canvas's middle.

    mosaic: probability of a mosaic. row: six draws from [0, 1): mosaic or not, centre x and y, three partners.
    """
    if row[0] >= mosaic:
        (top, left), (tall, wide), (height, width) = canvas.margin, canvas.size, tile.image.shape[1:]
        return [Pasted(tile, left + (wide - width) // 2, top + (tall - height) // 2)]
    x, y = (int(canvas.size[0] * (0.5 + draw)) for draw in row[1:3])
    tiles = [tile, *(choose_tile(pool, draw) for draw in row[3:6])]  # top left, top right, bottom left, bottom right
    scene = []
    for part, (below, right) in zip(tiles, ((0, 0), (0, 1), (1, 0), (1, 1))):
        height, width = part.image.shape[1:]
        scene.append(Pasted(part, x - (1 - right) * width, y - (1 - below) * height))
    return scene


def choose_tile(pool: Sequence[Tile], draw: float) -> Tile:
    """Return the tile of `pool` that a draw from [0, 1) picks."""
    return pool[int(draw * len(pool))]
