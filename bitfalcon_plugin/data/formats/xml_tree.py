"""Parse XML of strangers: elements, attributes and text, and nothing that a document could define by itself.

A document type, and with it every entity that a document could define or fetch, is refused before it is read: entities
that grow without bound ("billion laughs") and files that they include need one. So are elements that are nested deep or
very many: each takes a hundred times the memory of its text.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

MOST_BYTES = 1 << 22
MOST_ELEMENTS = 100_000
DEEPEST = 100  # elements inside one another


class _Refused(Exception):
    """A document that is not read on."""


def read_xml(path: Path) -> tuple[Element | None, str]:
    """Return the root of a document, and what is wrong with the file; each element has its line as `line`.

    Raises FileNotFoundError.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        return None, f"{path}: cannot be read ({error.strerror}); expected a text file"
    if len(data) > MOST_BYTES:
        return None, f"{path}: {len(data)} bytes; expected the labels of one image, at most {MOST_BYTES}"
    parser = expat.ParserCreate()
    builder = TreeBuilder()
    depth = count = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > DEEPEST:
            raise _Refused(f"its elements are nested too deep; expected {DEEPEST} inside one another at most")
        if count > MOST_ELEMENTS:
            raise _Refused(f"it has too many elements; expected the labels of one image, at most {MOST_ELEMENTS}")
        builder.start(name, {**attributes, "line": str(parser.CurrentLineNumber)})

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: object) -> None:
        raise _Refused("it has a document type (<!DOCTYPE ...>), which may define entities; remove it")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(data, True)
    except _Refused as error:
        return None, f"{path}:{parser.CurrentLineNumber}: {error}"
    except (expat.ExpatError, ValueError, LookupError) as error:  # an encoding that there is not is a LookupError
        return None, f"{path}:{parser.CurrentLineNumber}: not XML ({error}); was the file cut off?"
    return builder.close(), ""
