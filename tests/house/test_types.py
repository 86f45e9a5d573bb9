"""What type checkers see of the API: mypy reads tests/scripts/typed_client.py, which uses it as a user would."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.helpers.paths import ROOT

CLIENT = ROOT / "tests" / "scripts" / "typed_client.py"


def test_a_client_with_types_has_no_errors_and_a_mistake_is_seen(tmp_path):
    """Both scripts are checked in one run, which reads the stubs of torch once."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text('from bitfalcon_plugin import YOLO\n\ntext: str = YOLO("best.pt").predict("a.jpg")[0].boxes\n')
    # Errors in the package's own files are left out.
    options = [
        "--strict",
        "--follow-imports=silent",
        "--config-file=",
        f"--cache-dir={os.devnull}",
        "--no-error-summary",
    ]
    # An ndarray without arguments is how most people write the type.
    options += ["--allow-any-generics", "--allow-untyped-calls"]
    command = [sys.executable, "-m", "mypy", *options, CLIENT, wrong]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    (error,) = done.stdout.splitlines()  # none in the client
    assert "wrong.py:3: error: Incompatible types in assignment" in error and done.stderr == ""
