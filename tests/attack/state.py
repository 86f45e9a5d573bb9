"""The words of a command line, and a small file by which a long run goes on where it was stopped."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def words(defaults: dict[str, object]) -> dict[str, object]:
    """Read key=value words; each value has the type of its default."""
    values = dict(defaults)
    for word in sys.argv[1:]:
        key, _, value = word.partition("=")
        if key not in defaults:
            raise SystemExit(f"unknown word {key!r}; known: {', '.join(defaults)}")
        values[key] = type(defaults[key])(value)
    return values


class State:
    """What a run has done so far, in a JSON file: done, counts by outcome, and findings.

    path: "" keeps nothing. settings: a file of other settings (seed, kinds) is not gone on with.
    """

    def __init__(self, path: str, settings: dict[str, object]) -> None:
        self.path = Path(path) if path else None
        self.content = {"settings": settings, "done": 0, "counts": {}, "findings": []}
        if self.path is not None and self.path.is_file():
            content = json.loads(self.path.read_text())
            if content["settings"] != settings:
                raise SystemExit(f"{path} belongs to another run ({content['settings']}); remove it or give state=")
            self.content = content

    @property
    def done(self) -> int:
        """The number of finished cases."""
        return self.content["done"]

    def add(self, number: int, outcome: str, finding: dict[str, object] | None = None) -> None:
        """Count a case, and keep a finding."""
        counts = self.content["counts"]
        counts[outcome] = counts.get(outcome, 0) + 1
        self.content["done"] = number + 1
        if finding is not None:
            self.content["findings"].append(finding)
        if finding is not None or number % 10 == 9:
            self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is not None:
            temporary = self.path.with_suffix(".part")
            temporary.write_text(json.dumps(self.content, indent=1))
            os.replace(temporary, self.path)

    def report(self) -> None:
        """Print counts and findings."""
        for name, count in sorted(self.content["counts"].items()):
            print(f"{count:>8}  {name}")
        for finding in self.content["findings"][-50:]:
            print("FOUND", json.dumps(finding))
