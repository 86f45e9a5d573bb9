"""Measure the resize of 8-bit images: bilinear floats rounded (what it replaced), ours, and OpenCV's.

By hand: python tests/bench/resize.py [rounds=25]         times in turns, in one process, on one core
         python tests/bench/resize.py opencv [count=200]  compare ours with the installed OpenCV on random sizes
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from bitfalcon_plugin.data.images import resize
from bitfalcon_plugin.ops.resize import _resize, resize_bilinear

SIZES = [  # (h, w) of usual cameras and datasets, and of the network's input
    ((1080, 810), (640, 480)),
    ((720, 1280), (360, 640)),
    ((1080, 1920), (360, 640)),
    ((480, 640), (240, 320)),
    ((427, 640), (213, 320)),
    ((240, 320), (480, 640)),
    ((375, 500), (480, 640)),
]


def floats(pixels, size):
    """Frames as they were resized before: interleaved (h, w, 3) BGR to (*size, 3) RGB."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    scaled = functional.interpolate(image.float(), size=size, mode="bilinear", align_corners=False)
    blue, green, red = scaled[0].add_(0.5).to(torch.uint8)
    return torch.stack((red, green, blue), -1)


def float_planes(image, size):
    """Dataset images as they were resized before: (3, h, w) to (3, *size)."""
    scaled = functional.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)
    return scaled[0].add_(0.5).to(torch.uint8)


def speed(rounds: int = 25) -> None:
    """Print the median milliseconds of processor time of each way, measured in turns."""
    torch.set_num_threads(1)
    try:
        import cv2
    except ImportError:
        cv2 = None
    sys.modules.pop("cv2", None)  # or ours would hand its images to it
    print("milliseconds an image           frames: floats   ours  OpenCV   planes: floats   ours")
    for old, new in SIZES:
        pixels = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
        planes = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        ways = [
            partial(floats, pixels, new),
            partial(resize_bilinear, pixels, new, reverse=True),
            partial(cv2.resize, pixels, new[::-1]) if cv2 else float,
            partial(float_planes, planes, new),
            partial(resize, planes, new),
        ]
        name = f"{old[1]}x{old[0]} to {new[1]}x{new[0]}"
        print(f"{name:<30} {{:14.2f}} {{:6.2f}} {{:7.2f}} {{:16.2f}} {{:6.2f}}".format(*in_turns(ways, rounds)))


def in_turns(ways, rounds):
    """Median milliseconds of processor time of each way; the first turn warms up."""
    spent = [[] for _ in ways]
    for _ in range(rounds + 1):
        for way, times in zip(ways, spent, strict=True):
            start = time.thread_time()
            way()
            times.append((time.thread_time() - start) * 1e3)
    return [statistics.median(times[1:]) for times in spent]


def opencv(count: int = 200) -> None:
    """Print how many of `count` random sizes differ from OpenCV's bytes, with and without its vector instructions."""
    import cv2

    random, wrong = np.random.default_rng(0), 0
    for index in range(count):
        height, width, new_height, new_width = (int(side) for side in random.integers(1, (90, 700)[index % 2], 4))
        image = random.integers(0, 256, (height, width, (1, 3)[index % 3 > 0]), dtype=np.uint8)
        ours = _resize(image, (new_height, new_width))
        for fast in (True, False):
            cv2.setUseOptimized(fast)
            theirs = cv2.resize(image, (new_width, new_height)).reshape(ours.shape)
            wrong += not np.array_equal(ours, theirs)
    print(f"OpenCV {cv2.__version__}: {wrong} of {2 * count} differ")


if __name__ == "__main__":
    words = sys.argv[1:]
    options = {key: int(value) for key, _, value in (word.partition("=") for word in words if "=" in word)}
    (opencv if "opencv" in words else speed)(**options)
