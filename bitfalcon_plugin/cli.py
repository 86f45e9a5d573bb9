"""The command `bitfalcon`: the table of verbs, the help, and the message and exit code of each kind of error.

Exit codes: 0 done, 1 the machine or the program failed, 2 the user's mistake, 130 interrupted, 141 the reader of the
output closed it; doctor and selftest end with 1 for a dataset with mistakes and for a failed test. torch is imported
inside the verbs that need it. Written from spec/interface.md section 1.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from .config.errors import UserError
from .config.exit_codes import is_output_closed, message_of
from .config.json_output import WORDS as JSON_WORDS
from .config.json_output import asks_for_json, print_document, stdout_to_stderr
from .config.notes import print_note
from .config.printable import say
from .config.signals import repeat_ignored_interrupts
from .config.version import __version__

TYPE_CHECKING = False  # as in __init__.py
if TYPE_CHECKING:
    from .config.settings import Settings

DEBUG_TOKENS = ("--debug", "debug", "debug=true", "--debug=true")
HELP_WORDS = ("help", "--help", "-h")
WITH_DOCUMENT = ("info", "val", "doctor", "benchmark")  # verbs whose result json=True prints as one JSON document
SETTINGS_COPY = "default_copy.yaml"
EXAMPLE = "for example model=runs/detect/train/weights/best.pt ."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name), print its errors, and return the exit code."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        repeat_ignored_interrupts()
    try:
        code = _run(tokens)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        say("interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001  every error ends as a message and a code
        if isinstance(error, BrokenPipeError) and is_output_closed():
            return 141
        if any(token.lower() in DEBUG_TOKENS for token in tokens):
            import traceback

            say(traceback.format_exc(), end="", file=sys.stderr)
        message, code = message_of(error)
        say(f"error: {message}", file=sys.stderr)
        if asks_for_json(tokens) and _words(tokens) & {*WITH_DOCUMENT, "checks", "models"}:  # a document in any case
            print_document({"error": message, "exit_code": code})
        return code


def _run(tokens: Sequence[str]) -> int:
    if tokens and tokens[0] == "yolo":  # a whole line of the command that people have
        tokens = tokens[1:]
    if not tokens or tokens[0] in HELP_WORDS and len(tokens) == 1:  # before any further import
        return _help()
    if tokens[0] == "run" and tuple(tokens[1:]) not in (("--help",), ("-h",)):  # the rest belongs to the script
        return _script(tokens)
    from .config.command_line import parse_tokens

    if set(HELP_WORDS) & set(tokens):
        return _help([token for token in tokens if token not in HELP_WORDS])
    notes: list[str] = []
    verb, overrides = parse_tokens(tokens, notes)
    if verb in COMMANDS:
        return COMMANDS[verb](tokens)
    from .config.settings import load_settings

    settings = load_settings(overrides)
    if verb is None:
        from .config.missing_verb import verb_of

        verb, note = verb_of(settings, tokens)
        if verb == "help":
            return _help()
        notes.append(note)
        settings = load_settings({**overrides, "mode": verb})
    print_note(*notes, *settings.notes)
    if settings.json and settings.mode in WITH_DOCUMENT:
        with stdout_to_stderr():
            result = VERBS[settings.mode](settings)
        print_document(result.as_dict())
    else:
        result = VERBS[settings.mode](settings)
    return getattr(result, "exit_code", 0)  # doctor and selftest return a verdict


def _words(tokens: Sequence[str]) -> set[str]:
    """The words of a command line, those behind task= and mode= too, without dashes."""
    return {token.lstrip("-").lower().removeprefix("task=").removeprefix("mode=") for token in tokens}


def _help(tokens: Sequence[str] = ()) -> int:
    """Print the help of the verb among the tokens, or of the command."""
    from .config.help_text import HELP, verb_help

    verb = None
    if tokens:
        from .config.command_line import VERBS as KNOWN

        verb = next((word for word in KNOWN if word in _words(tokens)), None)
    say(HELP if verb is None else verb_help(verb), end="")
    return 0


def _version(tokens: Sequence[str]) -> int:
    say(__version__)
    return 0


def _cfg(tokens: Sequence[str]) -> int:
    """Print the settings as a YAML to edit; with --markdown as a table of Markdown."""
    from .config.listing import defaults_text, settings_table

    say(settings_table() if {"--markdown", "markdown"} & set(tokens) else defaults_text(), end="")
    return 0


def _copy_cfg(tokens: Sequence[str]) -> int:
    from .config.files import write_text
    from .config.listing import defaults_text

    if os.path.lexists(SETTINGS_COPY):
        raise UserError(f"'{SETTINGS_COPY}' exists already and may hold your changes. Rename or remove it first.")
    write_text(SETTINGS_COPY, defaults_text())
    say(f"wrote {SETTINGS_COPY}; edit it, then: bitfalcon train cfg={SETTINGS_COPY} model=yolov12.yaml scale=n")
    return 0


def _checks(tokens: Sequence[str]) -> int:
    from .config.installation_checks import run_checks

    return run_checks(as_json=asks_for_json(tokens))


def _models(tokens: Sequence[str]) -> int:
    """List the graphs and weights whose names fit the patterns among the tokens, all without one."""
    from .models.catalogue import HEAD, iterate_models

    switches = ("models", *JSON_WORDS, *DEBUG_TOKENS)
    patterns = [token for token in tokens if token.lower().lstrip("-") not in switches] or ["*"]
    as_json, found = asks_for_json(tokens), []
    for entry in (entry for pattern in patterns for entry in iterate_models(pattern)):
        if not as_json:
            say(entry.line() if found else f"{HEAD}\n{entry.line()}", flush=True)
        found.append(entry.as_dict())
    if as_json:
        print_document(found)
    elif not found:
        raise UserError(f"No graph and no weights here are called like {', '.join(patterns)}.")
    return 0


def _completion(tokens: Sequence[str]) -> int:
    """Print the script that completes command lines in the shell that the tokens name."""
    from .config.completion import completion_script

    shells = [token.lstrip("-") for token in tokens if token.lstrip("-") != "completion"]
    say(completion_script(shells[0] if shells else "bash"), end="")
    return 0


def _settings(tokens: Sequence[str]) -> int:
    """Print the user's own settings as JSON; `settings key=value` changes them, `settings reset` forgets all."""
    import json

    from .config.user_settings import ACTIVE, all_settings, change, parse_changes, reset, settings_file

    changes = parse_changes([token for token in tokens if token.lstrip("-").lower() != "settings"])
    if changes is None:
        reset()
    else:
        print_note(*change(changes) if changes else ())
    say(json.dumps(all_settings(), indent=2))
    print_note(f"kept in {settings_file()}; {', '.join(ACTIVE)} act here.")
    return 0


def _script(tokens: Sequence[str]) -> int:
    """Run the script, module or notebook of `run ...`; `run yolo ...` is a command line of this program."""
    from .dropin.run import run

    return run(tokens[tokens.index("run") + 1 :], main)


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "help": _help,
    "version": _version,
    "cfg": _cfg,
    "copy-cfg": _copy_cfg,
    "models": _models,
    "checks": _checks,
    "completion": _completion,
    "settings": _settings,
    "run": _script,
}


def _train(settings: Settings) -> object:
    from .export.formats import ModelKind, model_kind
    from .models.weights.foreign import open_checkpoint
    from .train.run import run_train

    source = _model_of(settings)
    kind = model_kind(source)
    if kind is ModelKind.EXPORTED:
        raise UserError(
            f"train needs a graph (.yaml) or a checkpoint (.pt); model={source} is an exported model, whose weights "
            "cannot be trained. Take the .pt it was made from."
        )
    settings = settings.replace(model=source)
    starts_from_weights = kind is ModelKind.CHECKPOINT and not settings.resume
    return run_train(settings, open_checkpoint(source) if starts_from_weights else None).metrics


def _val(settings: Settings) -> object:
    from .yolo import YOLO

    return YOLO(_trained_model(settings), _given_task(settings), verbose=True).val(settings=settings)


def _predict(settings: Settings) -> None:
    """Write annotated images and print a line for each image, or with json= an object for each image.

    The verb track does the same with ids.
    """
    from .yolo import YOLO

    if settings.source is None:
        what = "a video, or a folder with its frames, for example source=video.mp4"
        if settings.mode != "track":
            what = "an image, a folder or a glob, for example source=images/"
        raise UserError(f"{settings.mode} needs source=: {what} .")
    # With json= the objects are all that stdout gets.
    with contextlib.redirect_stdout(sys.stderr if settings.json else sys.stdout):
        model = YOLO(_trained_model(settings), _given_task(settings), verbose=True)
    settings = settings.with_defaults({"save": not settings.json and settings.shard is None})
    method = model.track if settings.mode == "track" else model.predict
    if not sum(1 for _ in method(stream=True, settings=settings)) and settings.shard is None:
        raise UserError(f"None of the images of source={settings.source} could be read.")


def _info(settings: Settings) -> object:
    from .export.formats import ModelKind, model_kind
    from .export.open import show_export
    from .models.build import graph_from_settings
    from .models.info import show_checkpoint, show_graph

    source = _model_of(settings)
    kind = model_kind(source)
    if kind is ModelKind.EXPORTED:
        return show_export(source)
    if kind is ModelKind.CHECKPOINT:
        return show_checkpoint(source, settings)
    return show_graph(graph_from_settings(source, settings), settings)


def _export(settings: Settings) -> object:
    """Write a file for other programs; a graph is exported with random weights."""
    from .export.formats import ModelKind, model_kind
    from .export.run import run_export
    from .models.build import graph_from_settings
    from .models.detector import Detector
    from .yolo import YOLO

    source = _model_of(settings)
    if model_kind(source) is not ModelKind.GRAPH:
        return YOLO(source, verbose=True).export(settings=settings)
    print_note(f"{source} is a graph, its weights are random.")
    return run_export(Detector(graph_from_settings(source, settings)), settings, source)


def _benchmark(settings: Settings) -> object:
    from .export.formats import ModelKind, model_kind
    from .yolo import YOLO

    source = _trained_model(settings)
    if model_kind(source) is ModelKind.EXPORTED:
        raise UserError(f"benchmark exports by itself: give the checkpoint that '{source}' was made from.")
    return YOLO(source, verbose=True).benchmark(settings=settings)


def _convert(settings: Settings) -> object:
    from .export.formats import ModelKind, model_kind
    from .models.weights.convert import run_convert

    if settings.model is None or model_kind(settings.model) is not ModelKind.CHECKPOINT:
        raise UserError(
            "convert needs a checkpoint: bitfalcon convert x.pt, or bitfalcon convert best.pt to=turbo out=y.pt ."
        )
    return run_convert(settings.model, settings)


def _doctor(settings: Settings) -> object:
    from .data.doctor.report import run_doctor
    from .tasks import task_named

    task = task_named(settings.task)
    rows = task.data.rows if "task" in settings.given else None
    if rows is None:
        return run_doctor(settings)
    return run_doctor(settings, rows.chosen(settings), task.oriented, rows.wish(settings))


def _data(settings: Settings) -> object:
    from .data.convert.run import run_data

    return run_data(settings)


def _selftest(settings: Settings) -> object:
    from .benchmark.selftest import run_selftest

    return run_selftest(settings)


def _sizes(settings: Settings) -> object:
    from .benchmark.sizes import run_sizes

    return run_sizes(settings)


def _bit(settings: Settings) -> object:
    from .bit.run import run_bit

    return run_bit(settings)


def _tune(settings: Settings) -> object:
    from .tune.run import run_tune

    return run_tune(settings)


VERBS: dict[str, Callable[[Settings], object]] = {
    "train": _train,
    "val": _val,
    "predict": _predict,
    "info": _info,
    "convert": _convert,
    "doctor": _doctor,
    "selftest": _selftest,
    "export": _export,
    "sizes": _sizes,
    "benchmark": _benchmark,
    "bit": _bit,
    "track": _predict,
    "tune": _tune,
    "data": _data,
}


def _given_task(settings: Settings) -> str | None:
    return settings.task if "task" in settings.given else None


def _model_of(settings: Settings) -> str:
    """settings.model, or the graph for the task that is given."""
    from .models.build import model_for_task

    return model_for_task(settings.model, _given_task(settings))


def _trained_model(settings: Settings) -> str:
    """settings.model; UserError where it does not name trained weights."""
    from .export.formats import ModelKind, model_kind

    if settings.model is None:
        raise UserError(f"{settings.mode} needs model=: a trained checkpoint, {EXAMPLE}")
    if model_kind(settings.model) is ModelKind.GRAPH:
        raise UserError(
            f"{settings.mode} needs trained weights; model={settings.model} does not end in .pt. Give a checkpoint, "
            f"{EXAMPLE}"
        )
    return settings.model
