"""The command `bitfalcon`: one table of verbs, and what each kind of error looks like to the one who typed it.

Exit codes: 0 done, 1 the machine or the program failed, 2 the user's mistake, 130 interrupted, 141 the reader of the
output went away; doctor and selftest end with 1 where they found something. Written from spec/interface.md section 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence

from .config.errors import UserError
from .config.version import __version__

HELP = """\
usage: bitfalcon VERB key=value ...

  train     train a detector                bitfalcon train model=yolov12.yaml scale=n data=data.yaml epochs=100
  val       COCO numbers of a checkpoint    bitfalcon val model=best.pt data=data.yaml split=test
  predict   boxes on images                 bitfalcon predict model=best.pt source=images/ conf=0.25
  info      the rows of a model             bitfalcon info model=yolov12.yaml scale=l
  export    a file for other programs       bitfalcon export model=best.pt format=onnx imgsz=640
            onnx, torchscript, pt2, openvino; compared with the network first; predict and val take the file as model=
  convert   weights to or from our format   bitfalcon convert best.pt to=turbo out=y.pt
  doctor    all that is wrong in a dataset  bitfalcon doctor data=data.yaml out=report.json
            ends with 0: nothing (notes are no fault), 1: warnings or errors, 2: there is no such dataset
  selftest  does this machine train right?  bitfalcon selftest device=0
            trains the smallest model on shapes for some minutes; ends with 0: passed, 1: failed
  bit       ternary layers, step by step    bitfalcon bit mode=scan model=best.pt data=data.yaml
            mode=scan, replace, qat, report, pack: rank, replace, fine-tune, compare, write the small file
  sizes     what a larger model buys        bitfalcon sizes model=yolov12-lite.yaml scale=n,s,m data=data.yaml epochs=50
            trains each size under one budget, one table; after a kill: the same with resume=True
  benchmark every engine, on this machine   bitfalcon benchmark model=best.pt data=data.yaml imgsz=640
            latency in turns, mAP, size, start-up, memory, agreement; format=onnx,torch,compile,... runs those only
  cfg       print all settings, with what each means; copy-cfg writes them to default_copy.yaml
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

HELP_WORDS = ("help", "--help", "-h")
COPY = "default_copy.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return its exit code. Prints, never raises for errors."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(tokens)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except Exception as error:  # noqa: BLE001  the last stop: every error ends as a message and a code
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            return 141
        if any(token.lower() in ("--debug", "debug", "debug=true", "--debug=true") for token in tokens):
            import traceback

            traceback.print_exc()
        return _say(*_verdict(error))


def _run(tokens: Sequence[str]) -> int:
    if not tokens or tokens[0] in HELP_WORDS:  # nothing else is imported for it
        return _help()
    from .config.command_line import parse_tokens

    notes: list[str] = []
    verb, overrides = parse_tokens(tokens, notes)
    if verb in COMMANDS:
        return COMMANDS[verb](tokens)
    from .config.settings import load_settings

    settings = load_settings(overrides)
    if verb is None:
        notes.append(f"no verb is given: mode={settings.mode}.")
    for note in (*notes, *settings.notes):
        print(f"note: {note}", file=sys.stderr)
    from . import api

    return getattr(getattr(api, settings.mode)(settings), "exit_code", 0)  # doctor and selftest judge


def _help(tokens: Sequence[str] = ()) -> int:
    print(HELP, end="")
    return 0


def _version(tokens: Sequence[str]) -> int:
    print(__version__)
    return 0


def _cfg(tokens: Sequence[str]) -> int:
    """The settings as a YAML to edit; with --markdown as the table of the README."""
    from .config.settings import defaults_text, settings_table

    print(settings_table() if {"--markdown", "markdown"} & set(tokens) else defaults_text(), end="")
    return 0


def _copy_cfg(tokens: Sequence[str]) -> int:
    from .config.files import write_text
    from .config.settings import defaults_text

    if os.path.lexists(COPY):
        raise UserError(f"'{COPY}' is here already and may hold your changes. Rename or remove it first.")
    write_text(COPY, defaults_text())
    print(f"wrote {COPY}; edit it, then: bitfalcon train cfg={COPY} model=yolov12.yaml scale=n")
    return 0


def _checks(tokens: Sequence[str]) -> int:
    """Versions against what the package asks for, and the devices; 1 where a requirement is not met."""
    import platform
    import re
    from importlib import metadata

    rows = [
        ("bitfalcon", __version__),
        ("Python", platform.python_version()),
        ("system", platform.platform()),
        ("processors", str(os.cpu_count())),
    ]
    unmet = 0
    try:
        requirements = metadata.requires("bitfalcon") or []
    except metadata.PackageNotFoundError:
        rows.append(("requirements", "not known: bitfalcon is not installed here"))
        requirements = []
    for requirement in requirements:
        wanted = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement.replace(" ", ""))  # not those of an extra
        if wanted:
            met, have = _installed(*wanted.groups())
            unmet += not met
            rows.append((wanted[1], f"{have} ({'ok' if met else 'NOT MET'}: >={wanted[2]})"))
    for name, value in (*rows, *_devices()):
        print(f"{name:<13} {value}")
    return 1 if unmet else 0


def _installed(name: str, least: str) -> tuple[bool, str]:
    """Whether the installed version of a distribution is at least `least`, and that version."""
    import re
    from importlib import metadata

    try:
        have = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False, "missing"
    numbers = [[int(part) for part in re.match(r"[\d.]*", text)[0].split(".") if part] for text in (have, least)]
    return numbers[0] >= numbers[1], have


def _devices() -> list[tuple[str, str]]:
    try:
        import torch
    except ImportError as error:
        return [("torch", f"cannot be imported: {error}")]
    if not torch.cuda.is_available():
        return [("GPU", "none that torch can use")]
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    rows = [(f"GPU {index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB") for index, gpu in enumerate(found)]
    return [*rows, ("CUDA", str(torch.version.cuda))]


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "help": _help,
    "version": _version,
    "cfg": _cfg,
    "copy-cfg": _copy_cfg,
    "checks": _checks,
}


def _verdict(error: Exception) -> tuple[str, int]:
    """What is said of an error that ends the run, and its exit code."""
    kind, text = type(error).__name__, " ".join(str(error).split()) or "no message"
    if isinstance(error, UserError):
        return f"error: {error}", 2
    if kind == "MismatchError":  # of an export
        return f"error: {error}", 1
    if kind == "OutOfMemoryError" or isinstance(error, MemoryError):
        return f"error: out of memory ({text}). Give a smaller batch= or imgsz=, or another device=.", 1
    if isinstance(error, OSError) and error.errno is not None:
        return f"error: the system refused: {kind}: {text}. Add --debug to see where.", 1
    return f"error: a fault of bitfalcon, not yours: {kind}: {text}. Run again with --debug to see where.", 1


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def _is_output_closed() -> bool:
    # The pipe may also have been one between processes of ours. An empty line tells; a second flush does not.
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return True
    return False
