"""Fonts for text in pictures: one that has all the letters of a text, among Pillow's own and those of the system."""

from __future__ import annotations

import os
import sys
import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

# Pillow's own font knows ASCII only. Files of fonts with more letters, as systems name them.
WIDER = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial.ttf", "LiberationSans-Regular.ttf")
# Fonts with Chinese, Japanese or Korean letters: name of the family -> names of its files.
IDEOGRAPH_FAMILIES = {
    "Noto Sans CJK SC": ("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf"),
    "Noto Sans CJK JP": ("NotoSansCJK-VF.otf.ttc",),
    "Source Han Sans": ("SourceHanSans-Regular.ttc",),
    "WenQuanYi Micro Hei": ("wqy-microhei.ttc",),
    "WenQuanYi Zen Hei": ("wqy-zenhei.ttc",),
    "Droid Sans Fallback": ("DroidSansFallbackFull.ttf", "DroidSansFallback.ttf"),
    "Microsoft YaHei": ("msyh.ttc",),
    "Yu Gothic": ("YuGothM.ttc",),
    "Malgun Gothic": ("malgun.ttf",),
    "PingFang SC": ("PingFang.ttc",),
    "Hiragino Sans GB": ("Hiragino Sans GB.ttc",),
    "Apple SD Gothic Neo": ("AppleSDGothicNeo.ttc",),
    "Arial Unicode MS": ("Arial Unicode.ttf", "ArialUnicodeMS.ttf"),
    "Unifont": ("unifont.ttf",),
}
IDEOGRAPHS = tuple(file for files in IDEOGRAPH_FAMILIES.values() for file in files)
FONT_FOLDERS = {
    "darwin": ("~/Library/Fonts", "/Library/Fonts", "/System/Library/Fonts"),
    "win32": ("%WINDIR%/fonts", "%LOCALAPPDATA%/Microsoft/Windows/Fonts"),
}
OTHER_FOLDERS = (
    "$XDG_DATA_HOME/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/usr/local/share/fonts",
    "/usr/share/fonts",
)


def writable(text: str, size: int, font: str | None = None) -> tuple[str, ImageFont.ImageFont]:
    """Return the text on one line, and a font of `size` px that can draw it: `font`, Pillow's own or one of the system.

    Where no font of the system has all the letters, accents are left off and what still cannot be drawn becomes '?'.
    """
    text = " ".join(text.split())
    name = _font_for("".join(sorted(set(text))), font)
    if name is not None:
        return text, _font(name, size)
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in plain), _font("", size)


@lru_cache(1024)
def _font_for(letters: str, first: str | None) -> str | None:
    """Return a font that has all the letters: `first`, "" for Pillow's own, the file of one of the system, or None."""
    if first and _has_all(first, letters):
        return first
    if letters.isascii() and letters.isprintable() or _has_all("", letters):
        return ""
    is_wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in letters)
    names = (*IDEOGRAPHS, *WIDER) if is_wide else (*WIDER, *IDEOGRAPHS)
    return next((name for name in (*names, *_system_fonts()) if _has_all(name, letters)), None)


@lru_cache(1)
def _system_fonts() -> tuple[str, ...]:
    """Return the files of the system's fonts; upright ones of ordinary weight first."""
    folders = [
        Path(os.path.expandvars(os.path.expanduser(name))) for name in FONT_FOLDERS.get(sys.platform, OTHER_FOLDERS)
    ]
    files = {
        str(path): path.stem.lower()
        for folder in dict.fromkeys(folders)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    }
    unusual = ("bold", "italic", "oblique", "black", "thin", "light", "mono", "serif")
    return tuple(sorted(files, key=lambda path: sum(word in files[path] for word in unusual)))


@lru_cache(256)
def _font(name: str, size: int) -> ImageFont.ImageFont | None:
    """Return the font of a file or of a name that the system knows; "" is Pillow's own. None where it is missing."""
    if not name:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except (OSError, ValueError):
        return None


def _has_all(name: str, letters: str) -> bool:
    """Whether a font exists and has all the letters."""
    return _font(name, 16) is not None and all(_has(name, letter) for letter in letters)


@lru_cache(4096)
def _has(name: str, letter: str) -> bool:
    """Whether a font has a letter: if not, it draws the same sign as for a code point that is never a letter."""
    font = _font(name, 16)
    try:
        sign, missing = font.getmask(letter), font.getmask("\uffff")
    except (OSError, ValueError):  # a broken file, or one whose letters are of one size
        return False
    return letter == " " or (sign.size, bytes(sign)) != (missing.size, bytes(missing))
