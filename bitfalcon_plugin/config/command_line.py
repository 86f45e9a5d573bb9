"""The grammar of the command line: tokens -> a verb and settings.

Written from spec/interface.md section 1. `task=train` is a verb too. Nothing is evaluated: values are literals.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .default_table import active_settings, table
from .errors import did_you_mean, raise_problems
from .settings import draft_of, is_model_scale
from .values import literal, sample, show

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
)
BIT_STEPS = ("scan", "replace", "qat", "report", "pack")  # of the verb bit
COMMANDS = ("help", "version", "cfg", "copy-cfg", "checks", "run")
VERBS = MODES + COMMANDS
FLAGS = {"-h": "help", "-v": "version"}
OTHER_TASKS = ("segment", "semantic", "depth", "classify", "pose", "obb")
MODEL_SUFFIXES = (".pt", ".yaml", ".yml", ".onnx", ".torchscript", ".pt2", "_openvino_model", "_openvino_model/")


def parse_tokens(tokens: Sequence[str], notes: list[str] | None = None) -> tuple[str | None, dict[str, object]]:
    """Read the tokens of a command line: (verb or None, overrides). Tolerated mistakes are appended to `notes`.

    Raises one UserError with every token that cannot be read and every wrong setting.
    """
    command = _Command(notes=[] if notes is None else notes)
    for token in _join_brackets(_join_equals(tokens), command.problems):
        command.read(token)
    if command.verb in COMMANDS:
        return command.verb, {}
    if command.problems:
        raise_problems("The command cannot be read:", command.problems + draft_of(command.overrides).problems)
    if command.verb:
        command.overrides["mode"] = command.verb
    return command.verb, command.overrides


def _join_equals(tokens: Sequence[str]) -> list[str]:
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


def _join_brackets(tokens: Iterable[str], problems: list[str]) -> list[str]:
    """Join a value that begins with `[` to the next tokens without `=`, until its brackets balance."""
    joined: list[str] = []
    for token in tokens:
        if joined and _is_open(joined[-1]) and "=" not in token:
            joined[-1] += token
        else:
            joined.append(token)
    problems += [f"{token}: a '[' is never closed; for example imgsz=[320,640]." for token in joined if _is_open(token)]
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

    def read(self, token: str) -> None:
        """Read one token, after the joins."""
        bare = FLAGS.get(token, token.removeprefix("--"))
        if bare.endswith(","):
            bare = bare.removesuffix(",")
            self.notes.append(f"'{token}': the comma at its end is not needed.")
        if token.startswith("--") and bare not in ("debug", "json", *COMMANDS):
            self.notes.append(f"'{token}': settings need no '--' here.")
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
            self.problems.append(f"task={word}: this package does detection for now; give task=detect, or no task.")
        elif key == "task" and word == "detect":
            self.overrides["task"] = word
        else:
            choices = (*VERBS, *BIT_STEPS)
            if key == "task":
                choices = ("detect", *VERBS)
            elif self.verb == "bit":
                choices = BIT_STEPS
            self.problems.append(f"{key}={word}: expected one of {', '.join(choices)}.{did_you_mean(word, choices)}")

    def set_verb(self, verb: str) -> None:
        if self.verb in COMMANDS:
            return
        if self.verb not in (None, verb) and verb in MODES:
            self.problems.append(f"'{self.verb}' and '{verb}': one command does one thing; leave one of them away.")
        self.verb = verb

    def read_word(self, word: str) -> None:
        """Read a word without `=`: a verb, a task, a switch, a file, or a mistake."""
        row = table().get(word)
        row = table()[row["now"]] if row and "now" in row else row
        is_model = word.lower().endswith(MODEL_SUFFIXES) and "model" not in self.overrides
        if word.lower() in BIT_STEPS and self.verb == "bit":
            self.set("step", word.lower())
        elif word.lower() in (*VERBS, "detect", *OTHER_TASKS):
            self.choose("task", word.lower())
        elif row and (isinstance(row["default"], bool) or row["type"] == "bool"):
            self.set(word, True)
        elif row:
            self.problems.append(f"'{word}' needs a value: write {sample(word, row)}.")
        elif is_model or os.path.exists(word):
            key = "source"
            if is_model:
                key = "data" if self.verb == "doctor" else "model"
            self.notes.append(f"'{word}' is read as {key}={word}.")
            self.set(key, word)
        else:
            switches = [
                key for key, row in active_settings().items() if isinstance(row["default"], bool) and key[0] == word[0]
            ]
            step = f" Did you mean 'bit {word.lower()}'?" if word.lower() in BIT_STEPS else ""
            hint = step or did_you_mean(word, (*VERBS, *switches))
            self.problems.append(f"'{word}' is no verb ({', '.join(VERBS)}), no setting and no file.{hint}")
