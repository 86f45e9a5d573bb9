"""Settings that were given but have no effect in a training run, each with the reason."""

from __future__ import annotations

from .default_table import keys_with
from .settings import Settings

MIXING = ("mosaic", "mixup", "cutmix", "copy_paste")  # that mix images; `close_mosaic` and rect end them


def unused_settings(settings: Settings, from_checkpoint: bool) -> list[str]:
    """Return a line for each given key without effect. from_checkpoint: whether model= is a checkpoint."""
    s = settings
    has_path = isinstance(s.pretrained, str)
    is_pretrained_unused = has_path if from_checkpoint else s.pretrained is True
    is_mixed = not s.rect and any(getattr(s, key) for key in MIXING)
    rules = {  # key -> (whether it has no effect, why not)
        "model_scale": (from_checkpoint, "the checkpoint's own size is trained"),
        "variant": (from_checkpoint, "the checkpoint's own family is trained"),
        "pretrained": (
            is_pretrained_unused,
            "weights come from model= where that is a checkpoint, otherwise from a path given here",
        ),
        "keep": (not s.bit, "it is for bit=, which makes layers ternary"),
        "cls_remap": (not from_checkpoint and not has_path, "no weights are taken over"),
        "strict": (not from_checkpoint and not has_path, "no weights are taken over"),
        "patience": (not s.val and s.patience > 0, "val=False measures the last epoch alone"),
        "save_period": (not s.save and s.save_period > 0, "save=False keeps one checkpoint"),
        "warmup_momentum": (s.optimizer.lower() not in ("sgd", "rmsprop"), "it is for optimizer=SGD and RMSProp"),
        "warmup_floor": (s.warmup_epochs == 0, "warmup_epochs=0: there is no warm-up"),
        "close_mosaic": (s.close_mosaic > 0 and not is_mixed, "no images are mixed"),
        "copy_paste_mode": (s.copy_paste == 0, "nothing is pasted"),
        **{key: (s.rect and getattr(s, key), "rect=True: images are not mixed") for key in MIXING},
        **dict.fromkeys(keys_with("not_for", "train"), (True, "it is for val and predict")),
        **dict.fromkeys(("iterations", "space"), (True, "it is for tune")),
        "split": (not isinstance(s.split, float), "it is for val and predict"),
    }
    return [
        f"{'scale' if key == 'model_scale' else key}={getattr(s, key)} has no effect here: {reason}."
        for key, (is_unused, reason) in rules.items()
        if is_unused and key in s.given
    ]
