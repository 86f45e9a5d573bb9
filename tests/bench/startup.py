"""Seconds before a command works: medians over fresh interpreters, which take turns. By hand, not a test:

    python tests/bench/startup.py [best.pt image.jpg] [against=<another checkout>] [rounds=5] [imports=15]

Rows: an empty interpreter, `import bitfalcon_plugin`, `import torch`, the same and the checkpoint opened, `bitfalcon
help`, and predict on one image, of a small model with fresh weights where none is given. Wall and processor seconds.
What the package adds is the difference, in each round, to an empty interpreter, to `import torch` or to that and the
checkpoint opened. Targets: import adds less than 0.030 s, predict takes at most 1.25 times as long as `import torch`
and opening the file. The last line names the slowest imports of predict (python -X importtime).

against: a second checkout, for example of an older commit (`git worktree add /tmp/before <commit>`). Its rows take
turns with those of this checkout, and the last lines compare the two round by round.

Measured on 2026-11-21, two cores with AVX2 and no other work: import torch 2.5 s; predict 0.70 s more (0.88 s of
processors), 1.29 times as long, of which the first forward pass is about 0.2 s; import bitfalcon_plugin nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THIS = Path(__file__).resolve().parents[2]
COMMON = {"nothing": ["-c", "pass"], "import torch": ["-c", "import torch"]}
OWN = {
    "import bitfalcon_plugin": ["-c", "import bitfalcon_plugin"],
    "bitfalcon help": ["-m", "bitfalcon_plugin", "help"],
}
OPENED = "import torch, file opened"
Seconds = tuple[float, float]  # wall, processors


def install(checkout: Path, target: Path) -> Path:
    """Copy the package of a checkout as pip lays it out, so that no part of it comes from another installation."""
    package = target / "bitfalcon_plugin"
    shutil.copytree(checkout / "bitfalcon_plugin", package, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("compat", "cfg"):
        shutil.copytree(checkout / part, package / part, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def environment(checkout: Path, folder: str) -> dict[str, str]:
    """Return the environment of an interpreter that imports the packages of a folder, compiled once."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**variables, "PYTHONPATH": str(checkout), "PYTHONPYCACHEPREFIX": str(Path(folder, "compiled"))}


def seconds(arguments: list[str], checkout: Path, folder: str) -> Seconds:
    """Run one fresh interpreter to its end."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(checkout, folder),
    )
    wall, after = time.perf_counter() - start, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def measure(rows: dict[str, tuple[list[str], Path]], folder: str, rounds: int) -> dict[str, list[Seconds]]:
    """Run every row (arguments and checkout) once a round; the first round, which fills caches, is left out."""
    spent: dict[str, list[Seconds]] = {name: [] for name in rows}
    for turn in range(rounds + 1):
        for name, (arguments, checkout) in rows.items():
            result = seconds(arguments, checkout, folder)
            if turn:
                spent[name].append(result)
    return spent


def slow_imports(arguments: list[str], folder: str, count: int) -> list[tuple[float, str]]:
    """Return (own milliseconds, module) of the imports after torch, slowest first."""
    command = [sys.executable, "-X", "importtime", *arguments]
    env = environment(Path(folder, "this"), folder)
    report = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=env).stderr
    lines = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", report)
    torch_line = next(index for index, (_, name) in enumerate(lines) if name == "torch")
    return sorted(((int(own) / 1e3, name) for own, name in lines[torch_line + 1 :]), reverse=True)[:count]


def compare(spent: dict[str, list[Seconds]], name: str, base: str) -> str:
    """Return one line: what `name` takes more than `base`, by the medians of the rounds."""
    pairs = list(zip(spent[name], spent[base], strict=True))
    wall, processors = (statistics.median(own[kind] - other[kind] for own, other in pairs) for kind in (0, 1))
    ratio = statistics.median(own[0] / other[0] for own, other in pairs)
    return f"{name} minus {base}: {wall:+.3f} s wall, {processors:+.3f} s of processors ({ratio:.2f} times as long)"


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


def main(
    weights: str | None = None, picture: str | None = None, against: str = "", rounds: int = 5, imports: int = 15
) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        if weights is None or picture is None:
            weights, picture = files(folder)
        sources = [f"model={Path(weights).resolve()}", f"source={Path(picture).resolve()}"]
        predict = ["-m", "bitfalcon_plugin", "predict", *sources, "name=x", "exist_ok=True", "device=cpu"]
        this = install(THIS, Path(folder, "this"))
        opening = "import sys, torch; from bitfalcon_plugin.compat.reader import load_file; load_file(sys.argv[1])"
        common = {**COMMON, OPENED: ["-c", opening, str(Path(weights).resolve())]}
        rows = {name: (arguments, this) for name, arguments in {**common, **OWN, "predict": predict}.items()}
        if against:
            other = install(Path(against), Path(folder, "against"))
            rows |= {f"{name} (against)": (arguments, other) for name, arguments in {**OWN, "predict": predict}.items()}
        spent = measure(rows, folder, rounds)
        for name, results in spent.items():
            walls, processors = zip(*results, strict=True)
            print(
                f"{name:<34} {statistics.median(walls):.3f} s wall ({min(walls):.3f} to {max(walls):.3f}), "
                f"{statistics.median(processors):.3f} s of processors"
            )
        print(compare(spent, "import bitfalcon_plugin", "nothing"))
        print(compare(spent, "predict", "import torch"))
        print(compare(spent, "predict", OPENED))
        for name in (*OWN, "predict") if against else ():
            print(compare(spent, name, f"{name} (against)"))
        slowest = [f"{name} {milliseconds:.1f} ms" for milliseconds, name in slow_imports(predict, folder, imports)]
        print(f"slowest imports after torch: {', '.join(slowest)}")


if __name__ == "__main__":
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    numbers = {key: int(options.pop(key)) for key in ("rounds", "imports") if key in options}
    main(*(word for word in sys.argv[1:] if "=" not in word), **options, **numbers)
