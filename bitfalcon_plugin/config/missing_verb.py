"""What a command line without a verb means."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from .errors import UserError
from .settings import Settings

# Keys that only one verb uses, for the error about a line without a verb.
TELLING_KEYS: Mapping[str, tuple[str, ...]] = {
    "data": ("rates", "difficult"),
    "track": ("tracker", "persist", "labels"),
    "export": ("format", "opset", "simplify", "dynamic", "nms", "int8"),
    "tune": ("iterations", "space"),
    "convert": ("to",),
    "val": ("split", "save_json"),
}
NEUTRAL = ("task", "debug", "json")


def verb_of(settings: Settings, tokens: Sequence[str]) -> tuple[str, str]:
    """Return the verb of a command line without one, and a note about it; ("help", "") where only a word is a task.

    source= means predict, or track with a setting of track beside it. model= means train, and so does task= with
    another task than detect, where no setting of another verb stands beside them. Raises UserError where nothing says
    what to do.
    """
    given = settings.given - set(NEUTRAL)
    names_task = settings.task != "detect" and any(token.lstrip("-").startswith("task=") for token in tokens)
    if not given and not names_task:
        return "help", ""
    if "mode" in given:  # from the file of cfg=
        return settings.mode, f"no verb is given: mode={settings.mode}, as cfg= says."
    hints = [verb for verb, keys in TELLING_KEYS.items() if given & set(keys)]
    if settings.source is not None:
        verb = "track" if "track" in hints else "predict"
        return verb, f"no verb is given: source= is for {verb}."
    if settings.model is not None and not hints:
        return "train", "no verb is given: model= alone means train."
    if names_task and not hints:
        return "train", f"no verb is given: task={settings.task} alone means train."
    if settings.resume:
        hints.append("train")
    line = shlex.join(tokens)
    verb = (hints or ["train"])[0]
    raise UserError(f"No verb is given. Write what to do first, for example: bitfalcon {verb} {line}")
