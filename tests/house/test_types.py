"""What type checkers see of the API: mypy reads tests/scripts/typed_client.py, which uses it as a user would."""

from __future__ import annotations

import subprocess
import sys

from tests.helpers.paths import ROOT

CLIENT = ROOT / "tests" / "scripts" / "typed_client.py"


def check(path, cache) -> subprocess.CompletedProcess:
    """Run mypy on one script; what it says of the package's own files is left out."""
    options = ["--strict", "--follow-imports=silent", "--config-file=", f"--cache-dir={cache}", "--no-error-summary"]
    # An ndarray without arguments is how most people write the type.
    options += ["--allow-any-generics", "--allow-untyped-calls"]
    return subprocess.run([sys.executable, "-m", "mypy", *options, path], cwd=ROOT, capture_output=True, text=True)


def test_a_client_with_types_has_no_errors_and_a_mistake_is_seen(tmp_path):
    done = check(CLIENT, tmp_path / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "wrong.py"
    wrong.write_text('from bitfalcon_plugin import YOLO\n\ntext: str = YOLO("best.pt").predict("a.jpg")[0].boxes\n')
    assert "Incompatible types in assignment" in check(wrong, tmp_path / "cache").stdout
