"""The one way of text to the terminal: names in files and folders of others must not give it orders.

Text that is written into files stays as it is.
"""

from __future__ import annotations

import re
import reprlib
import sys
from typing import TextIO

# Control characters but tab and newline, marks that turn the direction of writing around or are not seen, separators of
# lines, and halves of characters. The joiners of emoji and of some scripts are left.
OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


def printable(text: object) -> str:
    """Return text in which every character that a terminal would obey is written as its number, such as \\x1b."""
    text = str(text)
    return text if text.isascii() and text.isprintable() else OBEYED.sub(_number, text)


def one_line(text: object) -> str:
    r"""Return `printable` text of a name, in which newlines and tabs are written as \n and \t too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxlong = 3, 8, 8, 4, 80, 30


def short_repr(value: object) -> str:
    """Return a value as Python writes it, cut short: in files of others it may have any length and depth."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # a number of more digits than Python writes
        return f"<{type(value).__name__} of enormous length>"


def coloured(text: str) -> str:
    """Return `printable` text that keeps its colours, which our own lines may have."""
    return "".join(part if index % 2 else printable(part) for index, part in enumerate(COLOUR.split(text)))


def say(*parts: object, end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """Print as the function print does, printable. file: stdout where it is None."""
    print(*map(printable, parts), end=end, file=sys.stdout if file is None else file, flush=flush)


def _number(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
