"""What a row that no reader takes probably is: a line of another format, or numbers written another way."""

from __future__ import annotations

import re
from collections.abc import Sequence

DOTA_HEADERS = ("imagesource:", "gsd:", "acquisition")
CORNERS = 8  # numbers at the beginning of a line of DOTA


def with_hint(problems: Sequence[str], fields: Sequence[str]) -> list[str]:
    """Return what is wrong with a row, with what it probably is; of a line of another format that alone."""
    text = " ".join(fields)
    if _is_dota(fields):
        return [f"{text[:60]!r} is a line of DOTA's labels; convert the dataset: bitfalcon data to=yolo format=dota"]
    hint = ""
    if any(mark in text for mark in ",;") and all(map(_is_number, filter(None, re.split(r"[,;\s]+", text)))):
        hint = "; write the numbers with points in them and spaces between them, without commas"
    elif len(fields) > 4 and not _is_number(fields[0]) and all(map(_is_number, fields[1:])):
        hint = "; the class is written as its number in `names:`, from 0"
    return [*problems[:-1], problems[-1] + hint]


def _is_dota(fields: Sequence[str]) -> bool:
    """Whether a row is a line or a header of a label file of DOTA: eight numbers and then the name of a class."""
    if fields[0].lower().startswith(DOTA_HEADERS):
        return True
    if len(fields) <= CORNERS or not all(map(_is_number, fields[:CORNERS])):
        return False
    return fields[CORNERS][0].isalpha() and not _is_number(fields[CORNERS])


def _is_number(text: str) -> bool:
    """Whether a text is a number for Python, nan and infinity too."""
    try:
        float(text)
    except ValueError:
        return False
    return True
