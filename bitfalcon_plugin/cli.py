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

from .config.errors import UserError, is_out_of_memory
from .config.notes import print_note
from .config.printable import say
from .config.version import __version__

TYPE_CHECKING = False  # as in __init__.py
if TYPE_CHECKING:
    from .config.settings import Settings

HELP = """\
usage: bitfalcon VERB key=value ...

  train     train a detector                bitfalcon train model=yolov12.yaml scale=n data=data.yaml epochs=100
  val       COCO numbers of a checkpoint    bitfalcon val model=best.pt data=data.yaml split=test
  predict   boxes on images                 bitfalcon predict model=best.pt source=images/ conf=0.25
  track     boxes with an id an object      bitfalcon track model=best.pt source=video.mp4 tracker=botsort
  info      the rows of a model             bitfalcon info model=yolov12.yaml scale=l
  export    a file for other programs       bitfalcon export model=best.pt format=onnx imgsz=640
            onnx, torchscript, pt2, openvino; compared with the network first; predict and val take the file as model=
  convert   weights to or from our format   bitfalcon convert best.pt to=turbo out=y.pt
  doctor    all that is wrong in a dataset  bitfalcon doctor data=data.yaml out=report.json
            ends with 0: nothing (notes are no fault), 1: warnings or errors, 2: there is no such dataset
  data      a dataset of another format     bitfalcon data to=yolo format=dota data=DOTA out=dota-yolo tile=1024
            tile=1024 cuts large images into tiles for training; format=yolo does so with a data.yaml
  selftest  does this machine train right?  bitfalcon selftest device=0
            trains the smallest model on shapes for some minutes; ends with 0: passed, 1: failed
  bit       ternary layers, step by step    bitfalcon bit mode=scan model=best.pt data=data.yaml
            mode=scan, replace, qat, report, pack: rank, replace, fine-tune, compare, write the small file
  sizes     what a larger model buys        bitfalcon sizes model=yolov12-lite.yaml scale=n,s,m data=data.yaml epochs=50
            trains each size under one budget, one table; after a kill: the same with resume=True
  tune      search for hyper-parameters     bitfalcon tune model=best.pt data=data.yaml iterations=50 epochs=20
            more processes, or after a kill: resume=True; what was best: train cfg=.../best_hyperparameters.yaml
  benchmark every engine, on this machine   bitfalcon benchmark model=best.pt data=data.yaml imgsz=640
            latency in turns, mAP, size, start-up, memory, agreement; format=onnx,torch,compile,... runs those only
  run       a script for the wider package  bitfalcon run script.py arguments...
            unchanged: its `import ultralytics` means bitfalcon; also a notebook.ipynb, -m module, yolo detect train ...
  cfg       print all settings, with what each means; copy-cfg writes them to default_copy.yaml
  settings  your own settings, kept         bitfalcon settings runs_dir=/data/runs; settings reset
  checks    print versions and devices
  version   print the version
  help      print this

Words come in any order; `task=train` and `mode=train` are the same as `train`. Without data= the detector is
trained on generated shapes. The usual ones:

  model=yolov12.yaml       a graph (.yaml: cfg/models or a path) or a checkpoint (.pt)
  scale=n                  size of the graph, one of its letters; a number (scale=0.5) is the augmentation's gain
  variant=turbo            family of the attention blocks: v1, turbo, turbo-all-residual
  data=data.yaml           dataset: path, train, val, names
  epochs=100 batch=16 imgsz=640 device=cpu workers=8 seed=0
  project=runs name=first  where files land; otherwise runs/detect/train, train2, ...
  cfg=my.yaml              settings from a file; keys on the command line win
  cfg=yolov12-n            the YOLOv12 authors' recipe for a size: yolov12-n, -s, -m, -l, -x

bitfalcon task=train model=yolov12.yaml scale=n     the whole path, nothing else needed
Add --debug to see where an error comes from.
"""

DEBUG_TOKENS = ("--debug", "debug", "debug=true", "--debug=true")
SETTINGS_COPY = "default_copy.yaml"
EXAMPLE = "for example model=runs/detect/train/weights/best.pt ."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name), print its errors, and return the exit code."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(tokens)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        say("interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001  every error ends as a message and a code
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            return 141
        if any(token.lower() in DEBUG_TOKENS for token in tokens):
            import traceback

            say(traceback.format_exc(), end="", file=sys.stderr)
        message, code = _message_of(error)
        say(f"error: {message}", file=sys.stderr)
        return code


def _run(tokens: Sequence[str]) -> int:
    if tokens and tokens[0] == "yolo":  # a whole line of the command that people have
        tokens = tokens[1:]
    if not tokens or tokens[0] in ("help", "--help", "-h"):  # before any further import
        return _help()
    if tokens[0] == "run":  # all that follows belongs to the script
        return _script(tokens)
    from .config.command_line import parse_tokens

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
    return getattr(VERBS[settings.mode](settings), "exit_code", 0)  # doctor and selftest return a verdict


def _help(tokens: Sequence[str] = ()) -> int:
    say(HELP, end="")
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

    return run_checks()


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
    "checks": _checks,
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
    settings = settings.with_defaults({"save": not settings.json})
    method = model.track if settings.mode == "track" else model.predict
    if not sum(1 for _ in method(stream=True, settings=settings)):
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
    return run_doctor(settings, None if rows is None else rows.chosen(settings), rows is not None and task.oriented)


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


def _message_of(error: Exception) -> tuple[str, int]:
    """The message for an error that ends the run, and its exit code."""
    kind, text = type(error).__name__, " ".join(str(error).split()) or "no message"
    if isinstance(error, UserError):
        return str(error), 2
    if kind == "MismatchError":  # by name: its module imports torch
        return str(error), 1
    if is_out_of_memory(error):
        return f"out of memory ({text}). Give a smaller batch= or imgsz=, or another device=.", 1
    if isinstance(error, OSError) and error.errno is not None:
        return f"the system refused: {kind}: {text}. Add --debug to see where.", 1
    return f"a fault of bitfalcon, not yours: {kind}: {text}. Run again with --debug to see where.", 1


def _is_output_closed() -> bool:
    """Whether stdout is the pipe that broke, and not a pipe between processes of a run. Silences stdout then."""
    try:
        say(flush=True)  # an empty line shows it, a second flush does not
    except BrokenPipeError:
        # Otherwise the interpreter prints an error when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
