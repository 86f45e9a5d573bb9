"""Texts of a terminal: colours, and what is left without them."""

from __future__ import annotations

import re
import sys

STYLES = {
    **{name: 30 + index for index, name in enumerate("black red green yellow blue magenta cyan white".split())},
    **{f"bright_{name}": 90 + i for i, name in enumerate("black red green yellow blue magenta cyan white".split())},
    "end": 0,
    "bold": 1,
    "underline": 4,
}


def colorstr(*input: str) -> str:
    """Return a text in a terminal's colours: colorstr("red", "bold", "text"); one text alone is bold blue."""
    *styles, text = input if len(input) > 1 else ("blue", "bold", input[0])
    codes = "".join(f"\033[{STYLES[style]}m" for style in styles)
    return f"{codes}{text}\033[0m"


def remove_colorstr(input_string: str) -> str:
    """Return a text without the codes of colours and styles."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", input_string)


def emojis(string: str = "") -> str:
    """Return a text; on Windows without the letters that its terminal lacks."""
    text = str(string)
    return text.encode("ascii", "ignore").decode() if sys.platform == "win32" else text
