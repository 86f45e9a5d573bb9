"""The grammar of the command line: tokens -> a verb and settings.

Written from spec/interface.md section 1. `task=train` is a verb too, and `--epochs 3` is `epochs=3`. Nothing is
evaluated: values are literals.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .default_table import active_settings, table
from .errors import raise_problems
from .settings import draft_of, is_model_scale
from .usual_words import advice
from .values import literal, sample, show
from .weight_files import is_hub_folder

MODES = (
    "train",
    "val",
    "predict",
    "info",
    "convert",
    "doctor",
    "selftest",
    "export",
    "sizes",
    "benchmark",
    "bit",
    "track",
    "tune",
    "data",
)
BIT_STEPS = ("scan", "replace", "qat", "report", "pack")  # of the verb bit
COMMANDS = ("help", "version", "cfg", "copy-cfg", "models", "checks", "completion", "settings", "run")
VERBS = MODES + COMMANDS
FLAGS = {"-h": "help", "-v": "version"}
# `--help` and `--debug` are the usual forms; `--cfg my.yaml` is a setting.
WORDS_WITH_DASHES = {"debug", "json", "markdown", *COMMANDS} - {"cfg"}
LISTS = ("ints", "numbers", "size", "parts", "words")  # types of which `--classes 0 2` gives several values
OTHER_TASKS = ("semantic", "depth")
TASKS = ("detect", "segment", "classify", "pose", "obb")
WITH_DATA = ("train", "val", "tune", "sizes", "benchmark")  # verbs for which a second YAML is the dataset
MODEL_SUFFIXES = (
    ".pt",
    ".safetensors",
    ".yaml",
    ".yml",
    ".onnx",
    ".torchscript",
    ".pt2",
    "_openvino_model",
    "_openvino_model/",
)


def parse_tokens(tokens: Sequence[str], notes: list[str] | None = None) -> tuple[str | None, dict[str, object]]:
    """Read the tokens of a command line: (verb or None, overrides). Tolerated mistakes are appended to `notes`.

    Raises one UserError with every token that cannot be read and every wrong setting.
    """
    command = _Command(notes=[] if notes is None else notes)
    plain_tokens = _without_dashes(join_equals(tokens), command.notes)
    for token in _join_brackets(plain_tokens, command.problems):
        command.read(token)
    if command.verb in COMMANDS:
        return command.verb, {}
    if command.problems:
        raise_problems("The command cannot be read:", command.problems + draft_of(command.overrides).problems)
    if command.verb:
        command.overrides["mode"] = command.verb
    return command.verb, command.overrides


def join_equals(tokens: Sequence[str]) -> list[str]:
    """Join `k = v`, `k= v` and `k =v` to `k=v`, unless the next token has an `=` of its own."""
    joined: list[str] = []
    for token in map(str.strip, tokens):
        last = joined[-1] if joined else ""
        opens = token.startswith("=") and last and "=" not in last
        closes = last.find("=") == len(last) - 1 >= 0 and "=" not in token and not token.startswith("--")
        if opens or closes:
            joined[-1] += token
        elif token not in ("", "--"):
            joined.append(token)
    return joined


def _without_dashes(tokens: Sequence[str], notes: list[str]) -> list[str]:
    """Return `--epochs 3` and `--epochs=3` as `epochs=3`, and `--half` as `half`; one note tells all of them."""
    plain: list[str] = []
    written: list[str] = []
    waiting = list(tokens)
    while waiting:
        token = waiting.pop(0)
        word = token.lstrip("-")
        if token in FLAGS or token == word or not word[:1].isalpha():
            plain.append(token)
        elif word.partition("=")[0].lower() in WORDS_WITH_DASHES:
            plain.append(word)
        else:
            key, equals, value = word.partition("=")
            key = key.replace("-", "_")
            if not equals and (row := _row_of(key.removeprefix("no_"))) and key.startswith("no_"):
                if isinstance(row["default"], bool):
                    key, equals, value = key.removeprefix("no_"), "=", "False"
            if not equals and (values := _values_after(waiting, key)):
                equals, value = "=", f"[{','.join(values)}]" if len(values) > 1 else values[0]
            written.append(key + equals + value)
            plain.append(written[-1])
    if written:
        notes.append(f"settings need no dashes: {' '.join(map(_short, written))}")
    return plain


def _values_after(waiting: list[str], key: str) -> list[str]:
    """Take the values of the setting `--key` from the tokens after it; none for a switch such as `--half`."""
    row = _row_of(key) or {"default": None}
    kinds = row.get("type", "bool" if isinstance(row["default"], bool) else "").split("|")
    values: list[str] = []
    while waiting and not waiting[0].startswith("--") and not ("=" in waiting[0] and _row_of(_key(waiting[0]))):
        word = waiting[0].lower()
        if values and not re.fullmatch(r"-?\d+(\.\d+)?", word):
            break
        if kinds == ["bool"] and word not in ("true", "false") or "bool" in kinds and word in (*VERBS, *TASKS):
            break
        values.append(waiting.pop(0))
        if not set(kinds) & set(LISTS) or values[0].startswith("["):
            break
    return values


def _key(token: str) -> str:
    return token.partition("=")[0].strip()


def _row_of(key: str) -> Mapping[str, Any] | None:
    """Return the row of a setting in cfg/default.yaml, of an old name the row of its new name; otherwise None."""
    row = table().get(key)
    return table()[row["now"]] if row and "now" in row else row


def _join_brackets(tokens: Iterable[str], problems: list[str]) -> list[str]:
    """Join a value that begins with `[` to the next tokens without `=`, until its brackets balance."""
    joined: list[str] = []
    for token in tokens:
        if joined and _is_open(joined[-1]) and "=" not in token:
            joined[-1] += token
        else:
            joined.append(token)
    problems += [
        f"{_short(token)}: a '[' is never closed; for example imgsz=[320,640]." for token in joined if _is_open(token)
    ]
    return [token for token in joined if not _is_open(token)]


def _is_open(token: str) -> bool:
    value = token.partition("=")[2].strip()
    return value.startswith("[") and value.count("[") > value.count("]")


@dataclass
class _Command:
    """A command line that is being read: its verb, its settings, and notes and problems for the user."""

    notes: list[str]
    verb: str | None = None
    overrides: dict[str, object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    without_value: str = ""  # a setting whose value may be the next word

    def read(self, token: str) -> None:
        """Read one token, after the joins."""
        bare = FLAGS.get(token, token)
        if bare.endswith(","):
            bare = bare.removesuffix(",")
            self.notes.append(f"'{_short(token)}': the comma at its end is not needed.")
        key, equals, text = (part.strip() for part in bare.partition("="))
        if not equals:
            self.read_word(bare)
        elif not key or not text:
            self.problems.append(f"{show(token)}: expected key=value; for example epochs=100.")
        elif key in ("task", "mode"):
            self.choose(key, text.lower())
        else:
            self.set(key, literal(text, key))

    def set(self, key: str, value: object) -> None:
        key = "model_scale" if key == "scale" and is_model_scale(value) else key
        if self.overrides.get(key, value) != value:
            self.notes.append(f"'{key}' is given twice; the last one, {show(value)}, holds.")
        self.overrides[key] = value

    def choose(self, key: str, word: str) -> None:
        """Read the value of task= or mode=: a verb, or with the verb bit its step."""
        if key == "mode" and word in BIT_STEPS:
            self.set_verb("bit")
            self.set("step", word)
        elif word in VERBS:
            self.set_verb(word)
        elif key == "task" and word in OTHER_TASKS:
            self.problems.append(
                f"task={_short(word)}: this package knows {', '.join(TASKS)} for now; give one of these, or no task."
            )
        elif key == "task" and word in TASKS:
            self.overrides["task"] = word
        else:
            choices = (*VERBS, *BIT_STEPS)
            if key == "task":
                choices = (*TASKS, *VERBS)
            elif self.verb == "bit":
                choices = BIT_STEPS
            self.problems.append(f"{key}={_short(word)}: expected one of {', '.join(choices)}.{advice(word, choices)}")

    def set_verb(self, verb: str) -> None:
        if self.verb in COMMANDS:
            return
        if self.verb not in (None, verb) and verb in MODES:
            self.problems.append(f"'{self.verb}' and '{verb}': one command does one thing; leave one of them away.")
        self.verb = verb

    def read_word(self, word: str) -> None:
        """Read a word without `=`: a verb, a task, a switch, a file, or a mistake."""
        row, lower = _row_of(word), word.lower()
        if lower in BIT_STEPS and self.verb == "bit":
            self.set("step", lower)
        elif lower in (*VERBS, *TASKS, *OTHER_TASKS) and not (self.verb and row):  # `train data x.yaml`: data=x.yaml
            self.choose("task", lower)
        elif row and "bool" in (row.get("type"), type(row["default"]).__name__):
            self.set(word, True)
        elif row:
            self.problems.append(f"'{word}' needs a value: write {sample(word, row)}.")
            self.without_value = word
        elif self.without_value:
            key, self.without_value = self.without_value, ""
            self.problems[-1] = f"'{key} {_short(word)}': write {key}={_short(word)}."
        elif key := self.key_of_file(word):
            self.notes.append(f"'{_short(word)}' is read as {key}={_short(word)}.")
            self.set(key, word)
        else:
            self.problems.append(_unknown_word(word))

    def key_of_file(self, word: str) -> str:
        """Return the setting that a word means which is or names a file; "" for another word."""
        lower = word.lower()
        if lower.endswith(MODEL_SUFFIXES) and "model" not in self.overrides:
            return "data" if self.verb in ("doctor", "data") else "model"
        if lower.endswith((".yaml", ".yml")) and self.verb in WITH_DATA and "data" not in self.overrides:
            return "data"
        if "model" not in self.overrides and is_hub_folder(word):
            return "model"
        if self.verb == "data" and os.path.isdir(word) and "data" not in self.overrides:
            return "data"
        names_file = self.verb in ("predict", "track") and re.search(r"\.\w{2,5}$|[/\\]", word)
        names_file = names_file and not lower.endswith(MODEL_SUFFIXES)
        return "source" if os.path.exists(word) or names_file and "source" not in self.overrides else ""


def _unknown_word(word: str) -> str:
    """Return the problem of a word that means nothing, with what it may have meant."""
    switches = [key for key, row in active_settings().items() if isinstance(row["default"], bool) and key[0] == word[0]]
    hint = f" Did you mean 'bit {word.lower()}'?" if word.lower() in BIT_STEPS else advice(word, (*VERBS, *switches))
    verbs = "" if hint else f" ({', '.join(VERBS)})"
    return f"'{_short(word)}' is no verb{verbs}, no setting and no file.{hint}"


def _short(word: str) -> str:
    """Return a word for a message, a long one cut off."""
    return word if len(word) <= 200 else f"{word[:197]}..."
