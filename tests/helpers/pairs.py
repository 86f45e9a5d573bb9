"""The pairs of labels and detections that pycocotools makes, by image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bitfalcon_plugin.tasks import coco


def counts_of_cocoeval(images: int, evaluate: Callable[[], object], number: int = -1) -> np.ndarray:
    """Labels, hits and false positives of each image, (images, 3), at the overlap 0.50, summed over classes.

    evaluate: calls COCOeval, once or more; number: of the evaluation that is taken.
    """
    evaluations, own = [], coco._matches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco, "_matches", lambda made, *rest: evaluations.append(made) or own(made, *rest))
        evaluate()
    evaluation, counts = evaluations[number], np.zeros((images, 3), int)
    for item in evaluation.evalImgs:
        if item is not None and item["aRng"] == evaluation.params.areaRng[0]:
            hits = item["dtMatches"][0] > 0
            counts[item["image_id"]] += (len(item["gtIds"]), hits.sum(), (~hits).sum())
    return counts
