"""Mutated files of every format are opened in a child that is watched: none may run code, crash, hang, or take memory.

    python -m tests.attack.mutations count=100000 seed=0 state=mutations.json
    python -m tests.attack.mutations count=2000 only=checkpoint,graph
    python -m tests.attack.mutations case=1234 seed=0 keep=/tmp/case    # writes the file of one case, and opens it here

A refusal must be one UserError. The number of a case and the seed give its file, so that a finding can be repeated.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.attack.state import State, words
from tests.attack.watching import handle, watched

SECONDS, MEGABYTES = 10.0, 1000.0
DEFAULTS = {"count": 1000, "seed": 0, "state": "", "only": "", "case": -1, "keep": ""}


def order(kinds: dict, only: str) -> list[str]:
    """The kinds in turn, each as often as its weight says; the graphs of graphs.py among them."""
    chosen = [name for name in kinds if not only or name in only.split(",")]
    turns = [name for name in chosen for _ in range(kinds[name].weight)]
    if (not only or "broken graph" in only.split(",")) and importlib.util.find_spec("tests.attack.graphs"):
        turns += ["broken graph"] * 16
    random.Random(0).shuffle(turns)
    return turns


def prepare(name: str, seed: int, number: int, corpus: Path, folder: Path) -> Path | None:
    """Write the file of a case into `folder`; None where it cannot be made."""
    from tests.attack.formats import KINDS

    draw = random.Random(f"{seed}/{number}")
    if name == "broken graph":
        from tests.attack import graphs

        with contextlib.suppress(RecursionError, RuntimeError):  # torch.save cannot write it
            return graphs.write(draw.randrange(10**9), folder)
        return None
    kind = KINDS[name]
    source = corpus / kind.file
    if not source.is_file():
        return None
    parent = Path(kind.file).parent
    if parent.name:  # a folder of files, of which one is mutated
        shutil.copytree(corpus / parent, folder / parent, dirs_exist_ok=True)
    target = folder / kind.file
    target.write_bytes(kind.mutated(draw, source.read_bytes()))
    return target


def child(corpus: Path, seed: int, only: str, first: int, stop: int) -> None:
    """Open the files of the cases, one after the other."""
    from tests.attack.formats import KINDS, Kind, open_model, outcome

    turns = order(KINDS, only)
    kinds = {**KINDS, "broken graph": Kind("x.pt", open_model)}
    work = Path(tempfile.mkdtemp(prefix="attack-", dir=corpus))
    os.chdir(work)
    os.environ["BITFALCON_CONFIG"] = os.environ["BITFALCON_CACHE"] = str(work / "own")

    def name_of(number: int) -> str:
        return turns[number % len(turns)]

    def case(number: int) -> str:
        name = name_of(number)
        folder = work / "files"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = prepare(name, seed, number, corpus, folder)
        return "not made" if path is None else outcome(kinds[name], path)

    handle(range(first, stop), name_of, case)


def run(count: int, seed: int, state: State, only: str = "") -> list[dict[str, object]]:
    """Open so many files; returns what was found."""
    with tempfile.TemporaryDirectory(prefix="bitfalcon-attack-", ignore_cleanup_errors=True) as folder:
        command = ["tests.attack.mutations", "child", folder, str(seed), only]
        cases = watched(command, range(state.done, count), seconds=SECONDS, megabytes=MEGABYTES)
        for number, outcome, took, memory in cases:
            name, _, what = outcome.partition(": ")
            word = what.partition(":")[0]
            bad = word not in ("opened", "refused", "not made")
            finding = {"case": number, "outcome": outcome, "seconds": round(took, 1), "MB": round(memory)}
            state.add(number, f"{name}: {word}", finding if bad else None)
    state.save()
    return state.content["findings"]


def main() -> None:
    """Run as the words say."""
    if sys.argv[1:2] == ["child"]:
        from tests.attack.formats import corpus

        folder, seed, only, first, stop = sys.argv[2:]
        if not (Path(folder) / "made").is_file():
            with contextlib.redirect_stdout(sys.stderr):
                corpus(Path(folder))
            (Path(folder) / "made").touch()
        child(Path(folder), int(seed), only, int(first), int(stop))
        return
    given = words(DEFAULTS)
    if given["case"] >= 0:
        _one(given)
        return
    state = State(given["state"], {"seed": given["seed"], "only": given["only"]})
    found = run(given["count"], given["seed"], state, given["only"])
    state.report()
    raise SystemExit(1 if found else 0)


def _one(given: dict) -> None:
    """Write the file of one case into keep= and open it in this process."""
    from tests.attack.formats import KINDS, Kind, corpus, open_model, outcome

    keep = Path(given["keep"] or tempfile.mkdtemp())
    (keep / "file").mkdir(parents=True, exist_ok=True)
    corpus(keep / "corpus")
    turns = order(KINDS, given["only"])
    name = turns[given["case"] % len(turns)]
    path = prepare(name, given["seed"], given["case"], keep / "corpus", keep / "file")
    print(name, path)
    if path is not None:
        print(outcome({**KINDS, "broken graph": Kind("x.pt", open_model)}[name], path))


if __name__ == "__main__":
    main()
