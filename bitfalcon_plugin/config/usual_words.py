"""Words that people type for the verbs of this program, and what a command line without a verb means."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

from .errors import UserError, did_you_mean
from .settings import Settings

# What to write -> the words that mean it. Words that are verbs here are not among them.
MEANINGS: Mapping[str, str] = {
    "train": "fit finetune fine-tune retrain learn training",
    "train resume=True": "resume continue",
    "val": "eval evaluate evaluation validate validation valid metrics map",
    "val split=test": "test testing",
    "predict": "infer inference detection predictor prediction run-inference demo image photo",
    "predict source=0": "webcam camera cam live",
    "predict source=video.mp4": "video stream",
    "track": "tracking tracker follow mot reid",
    "tune": "tuning tuner evolve evolution hpo hyp hyperopt hyperparameters hyper-parameters search sweep optuna ray",
    "export": "deploy save-as compile-model",
    "export format=onnx": "onnx onnxruntime",
    "export format=openvino": "openvino",
    "export format=torchscript": "torchscript jit",
    "export int8=True format=openvino": "int8 ptq",
    "info": "summary layers architecture parameters flops show-model describe",
    "benchmark": "bench benchmarks speed fps latency timing",
    "doctor": "lint clean verify dataset check-data labels-check",
    "settings": "setting preferences prefs set reset",
    "cfg": "config configuration default defaults options args hyps",
    "copy-cfg": "copycfg copy_cfg",
    "checks": "check env environment system system-info collect_env diagnose",
    "version": "ver --ver",
    "help": "usage man commands",
    "run": "script notebook exec python",
    "run script.py": "solutions count counter counting heatmap zones region blur crop speed-estimation queue parking",
}
NOT_HERE = {  # word -> why there is nothing like it
    **dict.fromkeys(
        ("hub", "login", "logout", "signup", "upload", "account"), "There is no account and no service here."
    ),
    **dict.fromkeys(("download", "fetch"), "Nothing is downloaded: give a file that you have as model=."),
    **dict.fromkeys(("install", "update", "upgrade"), "pip installs and updates: pip install -U bitfalcon."),
}
# Keys that only one verb uses, for the error about a line without a verb.
TELLING_KEYS: Mapping[str, tuple[str, ...]] = {
    "track": ("tracker", "persist", "labels"),
    "export": ("format", "opset", "simplify", "dynamic", "nms", "int8"),
    "tune": ("iterations", "space"),
    "convert": ("to",),
    "val": ("split", "save_json"),
}
NEUTRAL = ("task", "debug", "json")


def advice(word: str, choices: Iterable[str]) -> str:
    """Return " Did you mean ...?" with what `word` usually means, otherwise with the most similar of the choices."""
    word = word.lower()
    if reason := NOT_HERE.get(word):
        return f" {reason}"
    meaning = next((written for written, words in MEANINGS.items() if word in words.split()), None)
    return f" Did you mean {meaning!r}?" if meaning else did_you_mean(word, choices)


def verb_of(settings: Settings, tokens: Sequence[str]) -> tuple[str, str]:
    """Return the verb of a command line without one, and a note about it; ("help", "") for a task alone.

    source= means predict, or track with a setting of track beside it. model= means train, where no setting of another
    verb stands beside it. Raises UserError where nothing says what to do.
    """
    given = settings.given - set(NEUTRAL)
    if not given:
        return "help", ""
    if "mode" in given:  # from the file of cfg=
        return settings.mode, f"no verb is given: mode={settings.mode}, as cfg= says."
    hints = [verb for verb, keys in TELLING_KEYS.items() if given & set(keys)]
    if settings.source is not None:
        verb = "track" if "track" in hints else "predict"
        return verb, f"no verb is given: source= is for {verb}."
    if settings.model is not None and not hints:
        return "train", "no verb is given: model= alone means train."
    if settings.resume:
        hints.append("train")
    line = shlex.join(tokens)
    verb = (hints or ["train"])[0]
    raise UserError(f"No verb is given. Write what to do first, for example: bitfalcon {verb} {line}")
