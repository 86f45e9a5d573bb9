"""An audit hook around the verbs: no socket, no process but our own, no write outside the run's and cache folders.

    python -m tests.attack.audits                 # every verb, in processes of their own
    python -m tests.attack.audits only=export,bit

The hook hears what Python does: opened files, sockets, processes, changes of folders. What a library does in C without
Python is not heard; such processes and sockets are looked for in /proc while the verbs run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tests.attack.state import words

DEFAULTS = {"only": ""}
ROOT = Path(__file__).resolve().parents[2]
SMALL = ["imgsz=64", "device=cpu"]
TRAIN = ["model=small.yaml", "scale=n", "data=data/data.yaml", *SMALL, "batch=4", "epochs=1"]
VERBS: dict[str, list[str]] = {
    "train": ["train", *TRAIN, "name=r"],
    "train with readers": ["train", *TRAIN, "name=w", "workers=2", "plots=False", "cache=disk"],
    "val": ["val", "model=three.pt", "data=data/data.yaml", *SMALL, "save_json=True"],
    "predict": ["predict", "model=m.pt", "source=data/images/val", *SMALL, "save_txt=True", "save_crop=True"],
    "doctor": ["doctor", "data=data/data.yaml", "out=report.json"],
    "bit": ["bit", "mode=replace", "model=three.pt", "data=data/data.yaml", *SMALL, "out=ternary.pt"],
    "benchmark": ["benchmark", "model=three.pt", *SMALL, "format=torch,torchscript", "data=data/data.yaml"],
    "export torchscript": ["export", "model=m.pt", "format=torchscript", *SMALL],
    "export onnx": ["export", "model=m.pt", "format=onnx", *SMALL],
    "export pt2": ["export", "model=m.pt", "format=pt2", *SMALL],
    "export openvino": ["export", "model=m.pt", "format=openvino", *SMALL],
    "track": ["track", "model=m.pt", "source=data/images/val", *SMALL],
    "tune": ["tune", *TRAIN, "iterations=1", "workers=0", "plots=False"],
}
NEEDS = {"export onnx": "onnxruntime", "export openvino": "openvino", "track": "trackers", "tune": "optuna"}
SENT = (
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "urllib.Request",
)
STARTED = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "os.startfile", "subprocess.Popen")
CHANGED = {  # event -> the positions of the paths that it changes
    "os.remove": (0,), "os.rename": (0, 1), "os.mkdir": (0,), "os.rmdir": (0,), "os.truncate": (0,), "os.link": (1,),
    "os.symlink": (1,), "os.chmod": (0,), "shutil.rmtree": (0,), "shutil.move": (1,), "shutil.copyfile": (1,),
}  # fmt: skip
ASKED = ("/sbin/ldconfig", "fc-list")  # programs that ctypes and matplotlib ask for libraries and fonts
ALLOWED = ("/dev/null", "/dev/shm", "/dev/tty")  # and what lies below the working directory and the temporary folder


class Audit:
    """What is heard while a verb runs. home: the working directory; what lies below it may be written."""

    def __init__(self, home: Path) -> None:
        self.roots = (str(home.resolve()), *ALLOWED)
        self.found: list[str] = []

    def hear(self, event: str, arguments: tuple) -> None:
        """The hook itself."""
        if (
            event in SENT
            and not (event == "socket.connect" or event == "socket.bind")
            or event in SENT
            and _is_network(arguments)
        ):
            self.found.append(f"{event} {arguments[1:]}")
        elif event in STARTED and not self._is_own(arguments):
            self.found.append(f"{event} {arguments[:2]}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)) and _writes(arguments):
            self._written(event, arguments[0])
        elif event in CHANGED:
            for position in CHANGED[event]:
                if position < len(arguments):
                    self._written(event, arguments[position])

    def _is_own(self, arguments: tuple) -> bool:
        return bool(arguments) and str(arguments[0]) in (sys.executable, *ASKED)

    def _written(self, event: str, path: object) -> None:
        if isinstance(path, int):
            return
        full = os.path.realpath(os.path.abspath(os.fsdecode(path)))
        if not full.startswith(self.roots) and not full.startswith("/proc/self/fd") and "__pycache__" not in full:
            self.found.append(f"{event} {full}")


def _is_network(arguments: tuple) -> bool:
    """Whether an address is of the network: of sockets in the file system it is text or bytes."""
    return len(arguments) > 1 and isinstance(arguments[1], tuple)


def _writes(arguments: tuple) -> bool:
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def child(verb: str, home: Path) -> None:
    """Run a verb in this process under the hook, and print what was heard as JSON."""
    audit = Audit(home)
    sys.addaudithook(audit.hear)
    os.chdir(home)
    out = os.dup(1)
    os.dup2(2, 1)
    from bitfalcon_plugin.cli import main

    code = main(VERBS[verb])
    os.write(out, json.dumps({"code": code, "found": list(dict.fromkeys(audit.found))}).encode())


def _three_classes(path: Path) -> None:
    """Write a checkpoint for the classes of the dataset."""
    from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
    from tests.helpers.tiny_models import CONV, small_model

    rows = [CONV, (-1, 1, "Conv", [32, 3, 2])]
    model = small_model(*rows, nc=3, names=["red", "green", "blue"])
    save_checkpoint(path, Checkpoint(model.graph, model.state_dict()))


def run(verb: str) -> dict[str, object]:
    """Run a verb in a fresh process; its exit code and what was heard."""
    from tests.attack.kills import lay_out

    with tempfile.TemporaryDirectory(prefix="bitfalcon-audit-") as name:
        home = Path(name)
        lay_out(home)
        _three_classes(home / "three.pt")
        for folder in ("tmp", "cache", "config", "home"):
            (home / folder).mkdir()
        own = {"TMPDIR": "tmp", "BITFALCON_CACHE": "cache", "BITFALCON_CONFIG": "config", "HOME": "home"}
        environment = {**os.environ, **{key: str(home / folder) for key, folder in own.items()}}
        environment.pop("TORCHINDUCTOR_CACHE_DIR", None)  # a test may have left it; by default it follows TMPDIR
        words = [sys.executable, "-m", "tests.attack.audits", "child", verb, name]
        done = subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if done.returncode or not done.stdout:
            raise RuntimeError(f"{verb} ended with {done.returncode}: {done.stderr[-3000:]}")
        result = json.loads(done.stdout)
        written = (path.relative_to(home) for path in (home / "home").rglob("*") if path.is_file())
        left = sorted(str(path) for path in written if "matplotlib" not in path.parts)  # its cache of fonts
        result["found"] += [f"written into the home folder: {path}" for path in left]
        if result["code"]:
            result["found"].append(f"exit code {result['code']}: {done.stderr[-500:]}")
        return result


def main() -> None:
    """Run as the words say."""
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], Path(sys.argv[3]))
        return
    only, wrong = words(DEFAULTS)["only"], 0
    for verb in VERBS:
        if only and verb.split()[0] not in only.split(",") and verb not in only.split(","):
            continue
        if verb in NEEDS and find_spec(NEEDS[verb]) is None:
            print(f"{verb}: left out, {NEEDS[verb]} is not installed")
            continue
        found = run(verb)["found"]
        wrong += bool(found)
        print(f"{verb}: {found or 'nothing'}", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
