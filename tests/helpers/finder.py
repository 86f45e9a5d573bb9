"""A detector that needs no training: it boxes the bright rectangles of an image. It stands in for a network."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw
from torch import nn

from bitfalcon_plugin.tasks import DETECT, Task
from bitfalcon_plugin.val import run as val_run


class BrightBoxes(nn.Module):
    """Finds each channel's bright area: red is class 0, green class 1, blue class 2; one box a class and image."""

    multiple, strides, names, nc = 32, (32.0,), {0: "red", 1: "green", 2: "blue"}, 3
    exported, fixed, task = False, None, "detect"

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        return images

    def decode(self, images):
        """(B, 3, H, W) -> (B, 4+3, 3): one anchor a channel, xywh of the pixels above 0.9, its score 0.9 or 0."""
        out = torch.zeros(len(images), 7, 3)
        for index, image in enumerate(images):
            for channel in range(3):
                others = image[[c for c in range(3) if c != channel]].amax(0)
                ys, xs = ((image[channel] > 0.75) & (others < 0.4)).nonzero(as_tuple=True)
                if len(ys):
                    x1, y1, x2, y2 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
                    out[index, :4, channel] = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
                    out[index, 4 + channel, channel] = 0.9
        return out


COLOURS = ("#ff0000", "#00ff00", "#0000ff")


def painted(path, size, boxes, **options):
    """A grey image of `size` (w, h) with rectangles: (class, x1, y1, x2, y2) in pixels, ends outside."""
    picture = Image.new("RGB", size, (114, 114, 114))
    draw = ImageDraw.Draw(picture)
    for cls, x1, y1, x2, y2 in boxes:
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=COLOURS[cls])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


class WithoutLosses(Task):
    """The detection task for networks that give no raw outputs, as BrightBoxes."""

    def gains(self, settings) -> None:
        return None


def measure_without_losses(monkeypatch) -> None:
    """Let `val` compute no losses."""
    monkeypatch.setattr(val_run, "task_of", lambda model: WithoutLosses(**vars(DETECT)))
