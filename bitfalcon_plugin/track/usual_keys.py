"""The keys of the tracker YAMLs that people have, as parameters of the trackers here (spec/dropin-helpers.md 12)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real

RENAMED = {
    "track_high_thresh": "high_conf_det_threshold",
    "track_low_thresh": "minimum_score",
    "new_track_thresh": "track_activation_threshold",
    "track_buffer": "lost_track_buffer",
}
APPEARANCE = ("with_reid", "model", "proximity_thresh", "appearance_thresh")
USUAL_KEYS = (*RENAMED, "match_thresh", "gmc_method", "fuse_score", *APPEARANCE)


def from_usual_keys(
    given: Mapping[str, object], tracker: str, known: Mapping[str, object], problems: list[str]
) -> tuple[dict[str, object], list[str]]:
    """Return the keys of `given` under our names, and notes about those that have no effect.

    tracker: its name. known: the parameters that it has. problems: gets a line for two keys with one meaning, and for
    values that cannot be read. Keys that are not USUAL_KEYS are returned unchanged.
    """
    values = {key: value for key, value in given.items() if key not in USUAL_KEYS}
    unused: list[str] = []
    for key, target, value in _translated(given, known, problems):
        if target in values:
            problems.append(f"{key} and {target} are the same parameter; give one of them.")
        elif target in known:
            values[target] = value
        else:
            unused.append(key)
    if given.get("fuse_score") is True and "minimum_iou_threshold_first_assoc" not in known:
        unused.append("fuse_score=True")
    if given.get("fuse_score") is False and "minimum_iou_threshold_first_assoc" in known:
        unused.append("fuse_score=False")
    notes = [f"{key} has no effect for {tracker}." for key in unused]
    if given.get("with_reid") is True:
        notes.append("with_reid=True has no effect: objects are matched by place and motion, not by appearance.")
    return values, notes


def _translated(
    given: Mapping[str, object], known: Mapping[str, object], problems: list[str]
) -> Iterator[tuple[str, str, object]]:
    """Yield (key, our key, value) for the usual keys in `given` that have a counterpart."""
    for key, target in RENAMED.items():
        if key in given:
            yield key, target, given[key]
    if "match_thresh" in given:
        cost = given["match_thresh"]  # the largest cost of a match, 1 - overlap
        if isinstance(cost, Real) and not isinstance(cost, bool) and 0 <= float(cost) <= 1:
            first = "minimum_iou_threshold_first_assoc"
            yield "match_thresh", first if first in known else "minimum_iou_threshold", round(1 - float(cost), 6)
        else:
            problems.append(f"match_thresh={cost!r}: expected a number from 0 to 1; for example 0.8.")
    method = given.get("gmc_method", "")
    if method is None or str(method).lower() == "none":
        if "enable_cmc" in known:
            yield "gmc_method", "enable_cmc", False
    elif method:
        yield "gmc_method", "cmc_method", method
