"""Settings that were given but have no effect in a training run, each with the reason."""

from __future__ import annotations

from collections.abc import Callable

from .settings import Settings
from .table import keys_with

MIXING = ("mosaic", "mixup", "cutmix", "copy_paste")  # that mix images; `close_mosaic` and rect end them
# key -> (whether it has no effect, why not). Arguments: the settings, and whether model= is a checkpoint.
RULES: dict[str, tuple[Callable[[Settings, bool], bool], str]] = {
    "model_scale": (lambda s, weights: weights, "the checkpoint's own size is trained"),
    "variant": (lambda s, weights: weights, "the checkpoint's own family is trained"),
    "pretrained": (
        lambda s, weights: s.pretrained is True and not weights or isinstance(s.pretrained, str) and weights,
        "weights come from model= where that is a checkpoint, otherwise from a path given here",
    ),
    "keep": (lambda s, weights: not s.bit, "it is for bit=, which makes layers ternary"),
    "cls_remap": (lambda s, weights: not weights and not isinstance(s.pretrained, str), "no weights are taken over"),
    "patience": (lambda s, weights: not s.val and s.patience > 0, "val=False measures the last epoch alone"),
    "save_period": (lambda s, weights: not s.save and s.save_period > 0, "save=False keeps one checkpoint"),
    "warmup_momentum": (
        lambda s, weights: s.optimizer.lower() not in ("sgd", "rmsprop"),
        "it is for optimizer=SGD and RMSProp",
    ),
    "warmup_floor": (lambda s, weights: s.warmup_epochs == 0, "warmup_epochs=0: there is no warm-up"),
    "close_mosaic": (
        lambda s, weights: s.close_mosaic > 0 and (s.rect or not any(getattr(s, key) for key in MIXING)),
        "no images are mixed",
    ),
    "copy_paste_mode": (lambda s, weights: s.copy_paste == 0, "nothing is pasted"),
    **{
        key: (lambda s, weights, key=key: s.rect and bool(getattr(s, key)), "rect=True: images are not mixed")
        for key in MIXING
    },
    **{key: (lambda s, weights: True, "it is for val and predict") for key in keys_with("not_for", "train")},
}


def unused_settings(settings: Settings, weights: bool) -> list[str]:
    """Return a line for each given key without effect. weights: whether the run starts from a checkpoint in model=."""
    keys = [key for key, (is_unused, _) in RULES.items() if key in settings.given and is_unused(settings, weights)]
    return [
        f"{'scale' if key == 'model_scale' else key}={getattr(settings, key)} has no effect here: {RULES[key][1]}."
        for key in keys
    ]
