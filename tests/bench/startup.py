"""What a command waits for before it works: medians over fresh interpreters, taken in turn. By hand, not a test:

    python tests/bench/startup.py [best.pt image.jpg] [rounds=5] [imports=15]

Rows: an empty interpreter, `import bitfalcon_plugin`, `import torch`, `bitfalcon help`, and predict on one image, of a small
model with fresh weights where none is given. Wall and processor seconds; what the package adds is taken in each round, over
`import torch` of the same round. Targets: import under 0.030 s over an empty interpreter, predict less than 0.4 s over
`import torch`. Below: the imports that take longest when predicting (python -X importtime).

Measured on 2026-11-21, two cores with AVX2 and no other work: import torch 2.5 s; predict 0.70 s more (0.88 s of processors), 1.29 times
as long, of which the first forward pass is about 0.2 s; import bitfalcon_plugin nothing over an empty interpreter.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = {
    "nothing": ["-c", "pass"],
    "import bitfalcon_plugin": ["-c", "import bitfalcon_plugin"],
    "import torch": ["-c", "import torch"],
    "bitfalcon help": ["-m", "bitfalcon_plugin", "help"],
}


def seconds(arguments: list[str], folder: str) -> tuple[float, float]:
    """Wall and processor seconds of one fresh interpreter."""
    usual = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }  # as where pip installs: compiled once
    before, start = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**usual, "PYTHONPYCACHEPREFIX": str(Path(folder, "compiled"))},
    )
    wall, after = time.perf_counter() - start, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def measure(rows: dict[str, list[str]], folder: str, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Every row once a round; the first round, which fills caches, is left out."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for turn in range(rounds + 1):
        for name, arguments in rows.items():
            spent = seconds(arguments, folder)
            if turn:
                found[name].append(spent)
    return found


def slow_imports(arguments: list[str], folder: str, count: int) -> list[tuple[float, str]]:
    """(milliseconds of its own, module) of what is imported after torch, slowest first."""
    told = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stderr
    lines = list(re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", told))
    end = next(index for index, (_, name) in enumerate(lines) if name == "torch")
    return sorted(((int(own) / 1e3, name) for own, name in lines[end + 1 :]), reverse=True)[:count]


def files(folder: str) -> tuple[str, str]:
    """A checkpoint of the smallest graph with fresh weights, and a picture."""
    import numpy as np
    from PIL import Image

    from bitfalcon_plugin.models.build import build
    from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint

    model = build("yolov12.yaml", "n")
    save_checkpoint(
        f"{folder}/n.pt", Checkpoint(model.graph, model.state_dict(), measured=(model.strides, model.multiple))
    )
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    Image.fromarray(noise).save(f"{folder}/picture.jpg")
    return f"{folder}/n.pt", f"{folder}/picture.jpg"


def main(weights: str | None = None, picture: str | None = None, rounds: int = 5, imports: int = 15) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        if weights is None or picture is None:
            weights, picture = files(folder)
        verb = [
            "-m",
            "bitfalcon_plugin",
            "predict",
            f"model={Path(weights).resolve()}",
            f"source={Path(picture).resolve()}",
            "name=x",
            "exist_ok=True",
            "device=cpu",
        ]
        found = measure({**ROWS, "predict": verb}, folder, rounds)
        for name, spent in found.items():
            walls, cpus = zip(*spent)
            print(
                f"{name:<24} {statistics.median(walls):.3f} s wall ({min(walls):.3f} to {max(walls):.3f}), "
                f"{statistics.median(cpus):.3f} s of processors"
            )
        for name, base in (("import bitfalcon_plugin", "nothing"), ("predict", "import torch")):
            added = [[one[kind] - other[kind] for one, other in zip(found[name], found[base])] for kind in (0, 1)]
            share = statistics.median(one[0] / other[0] for one, other in zip(found[name], found[base]))
            print(
                f"{name} adds {statistics.median(added[0]):.3f} s wall, {statistics.median(added[1]):.3f} s of processors to "
                f"{base} ({share:.2f} times as long)"
            )
        print(
            "slowest imports after torch: "
            + ", ".join(f"{name} {spent:.1f} ms" for spent, name in slow_imports(verb, folder, imports))
        )


if __name__ == "__main__":
    places = [word for word in sys.argv[1:] if "=" not in word]
    main(
        *places, **{key: int(value) for key, _, value in (word.partition("=") for word in sys.argv[1:] if "=" in word)}
    )
