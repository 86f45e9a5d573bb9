"""Mutations of annotation files: JSON of COCO's format by its values, XML of Pascal VOC by its elements."""

from __future__ import annotations

import json
import random
import re
from copy import deepcopy

from tests.attack.mutators import mutate_text

DIGITS = "7" * 5000
NUMBERS = (
    "0", "-1", "1", "2", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "1e308", "1e-320", "0.1", "-0.0", "1.0",
    str(2**31), str(2**63), str(2**64), str(10**12), str(-(10**30)), DIGITS, f"0.{DIGITS}", "1e9", "1000000001",
)  # fmt: skip
TEXTS = (
    "", " ", "1", "null", "../../etc/passwd", "/etc/passwd", "a\0.png", "\ud800", "\x1b[2J", "a\nb", "s3://b/a.png",
    "x" * 5000, "é" * 300, "CON", "~/a.png", "a/../../b.png", "\\\\server\\a.png", "0.png/", ".", "..",
    "%s%n{0}{size}", "\u202e",
)  # fmt: skip
RUNS = (
    [], [0], [3072], [-1, 3073], [10**12], [1, 2, 3], [True], [1.5, 3070.5], "", "0", "ooooooo", "é", "P" * 5000,
    "\x00", [0, 3072], [3072, 0], ["1"], [0] * 3000 + [3072], "`00", None, 5,
)  # fmt: skip
ENORMOUS = {"size": [10**6, 10**6], "counts": [10**9] * 1000}, [[0, 0, 9e8, 0, 9e8, 9e8]]
KEYS = (
    "id", "image_id", "category_id", "bbox", "segmentation", "keypoints", "num_keypoints", "area", "iscrowd", "name",
    "file_name", "width", "height", "images", "annotations", "categories", "size", "counts", "skeleton",
)  # fmt: skip
MARK = "\ue000"  # stands for a number that json.dumps does not write


def mutate_json(draw: random.Random, data: bytes) -> bytes:
    """Change values, keys and entries of a document; sometimes its text or its encoding. Numbers may be no JSON."""
    way = draw.random()
    if way < 0.15:
        return mutate_text(draw, data)
    if way < 0.2:
        return draw.choice((
            b"[" * 10**5, b'{"images":' * 10**4, b'{"a":' + data + b"}", b"[" + data + b"]", b"[]", b"{}", b"",
            data.decode().encode("utf-16"), b"\xff" + data, data + data, b"null", b"7" * 5000,
        ))  # fmt: skip
    document = json.loads(data)
    raw: list[str] = []
    for _ in range(draw.choice((1, 1, 2, 4))):
        _change(draw, document, raw)
    text = json.dumps(document)
    for number, value in enumerate(raw):
        text = text.replace(json.dumps(f"{MARK}{number}{MARK}"), value)
    return text.encode()


def _change(draw: random.Random, document: dict, raw: list[str]) -> None:
    """Change one value of the document. raw: numbers that are written as they are."""
    places = list(_places(document))
    if not places:
        document["images"] = []
        return
    wanted = draw.choice(KEYS)
    near = [place for place in places if place[1] == wanted] or places
    holder, key = draw.choice(near if draw.random() < 0.7 else places)
    value, way = holder[key], draw.randrange(10)
    if way < 4:
        holder[key] = _value(draw, raw)
    elif way == 4:
        del holder[key]
    elif way == 5 and isinstance(value, list):
        times = 500 if len(value) < 100 else 2  # files stay below 50 MB
        holder[key] = draw.choice((value * 2, value[:1], value[1:], value[::-1], value * times, [value], []))
    elif way == 6 and isinstance(holder, list):
        holder.insert(key, deepcopy(value))
    elif way == 7:
        sides = [draw.choice((48, 64, 0, 10**9)), draw.choice((64, 48, -1, 10**6))]
        holder[key] = draw.choice(({"size": sides, "counts": draw.choice(RUNS)}, *map(deepcopy, ENORMOUS)))
        images = document.get("images") if draw.random() < 0.5 else None
        for image in images if isinstance(images, list) else ():
            if isinstance(image, dict):
                image.pop("width", None), image.pop("height", None)
    elif way == 8:
        nested: object = value
        for _ in range(draw.choice((1, 5, 400))):
            nested = draw.choice(([nested], {"a": nested}))
        holder[key] = nested
    elif isinstance(holder, dict):
        holder[draw.choice(KEYS)] = deepcopy(value)


def _places(value: object) -> list[tuple[dict | list, object]]:
    """(holder, key) of every value inside a document."""
    places = []
    stack = [value]
    while stack:
        holder = stack.pop()
        keys = holder.keys() if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            places.append((holder, key))
            stack.append(holder[key])
    return places


def _value(draw: random.Random, raw: list[str]) -> object:
    way = draw.randrange(8)
    if way < 3:
        raw.append(draw.choice(NUMBERS))
        return f"{MARK}{len(raw) - 1}{MARK}"
    if way < 5:
        return draw.choice(TEXTS)
    if way == 5:
        length = draw.choice((0, 1, 3, 4, 5, 7, 70_000))
        return [draw.choice((0, 1.5, -3, 10, 47, 1e6)) for _ in range(min(length, 7))] * (length // 7 or 1)
    return draw.choice((None, True, False, [], {}, [[]], [[[]]], [None], [[1, 2, 3, 4, 5, 6]], {"size": 1}))


ENTITIES = (
    '<!DOCTYPE a [<!ENTITY l "lol"><!ENTITY m "&l;&l;&l;&l;&l;&l;&l;&l;"><!ENTITY n "&m;&m;&m;&m;&m;&m;&m;&m;">]>',
    '<!DOCTYPE a [<!ENTITY n SYSTEM "file:///etc/passwd">]>', '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">',
    '<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]>', "<!DOCTYPE annotation>",
)  # fmt: skip
ENCODINGS = ("utf-8", "utf-16", "utf-7", "ascii", "latin-1", "cp037", "none-such", "idna", "zlib", "shift_jis", "")
XML_WORDS = (
    "", "&n;", "&#0;", "&#27;[2J", "&#xd800;", "&amp;", "<![CDATA[5]]>", "<!-- 5 -->", "<x/>", "<?php 5 ?>", "]]>",
    "\0", "0x10", "1_0", "１", "nan", "inf", "-inf", "3,5", "true", "Unspecified", "2",
)  # fmt: skip


def mutate_xml(draw: random.Random, data: bytes) -> bytes:
    """Change, drop, repeat, nest and rename elements; add document types, entities and encodings."""
    way = draw.random()
    if way < 0.15:
        return mutate_text(draw, data)
    text = data.decode()
    for _ in range(draw.choice((1, 1, 2, 4))):
        text = _change_xml(draw, text)
    encoding = draw.choice(ENCODINGS) if draw.random() < 0.2 else None
    if encoding is None:
        return text.encode("utf-8", "surrogatepass")
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    return (head + text).encode(draw.choice(("utf-8", "utf-16", "utf-16-le", "utf-32")), "surrogatepass")


def _change_xml(draw: random.Random, text: str) -> str:
    elements = list(re.finditer(r"<(\w+)[^<>]*>([^<]*)</\1>", text))
    way = draw.randrange(9)
    if way == 0:
        return draw.choice(ENTITIES) + text.replace(">10<", ">&n;<")
    if way == 1:
        depth = draw.choice((50, 101, 20_000))
        return draw.choice(("<a>" * depth + text + "</a>" * depth, text.replace("<object>", "<object>" * depth, 1)))
    if not elements:
        return text + "<a/>"
    match = draw.choice(elements)
    start, end = match.span()
    if way < 5:
        value = draw.choice((draw.choice(NUMBERS), draw.choice(XML_WORDS), "x" * 10**6, "5 " * 10**5))
        return text[: match.start(2)] + value + text[match.end(2) :]
    if way == 5:
        return text[:start] + text[end:]
    if way == 6:
        times = draw.choice((2, 3, 20_000)) if len(match[0]) < 500 else 2  # files stay below 50 MB
        return text[:start] + match[0] * times + text[end:]
    if way == 7:
        name = draw.choice(("object", "bndbox", "size", "annotation", "xmin", "a:b", "é", "x" * 300))
        return text.replace(f"<{match[1]}>", f"<{name}>").replace(f"</{match[1]}>", f"</{name}>")
    attributes = " ".join(f'a{number}="{number}"' for number in range(draw.choice((1, 1000, 50_000))))
    return text[:start] + f"<{match[1]} {attributes} line='5'>{match[2]}</{match[1]}>" + text[end:]
