"""COCO's matching by hotcoco (MIT), a quick program that gives the numbers of pycocotools to the last bit.

It is used where it is installed (`pip install 'bitfalcon[fast]'`). pycocotools is what it is compared with, in the
tests, and what computes everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import numpy as np
from pycocotools.cocoeval import COCOeval


def evaluate_quickly(evaluation: COCOeval) -> bool:
    """Set `eval` as evaluate() and accumulate() would, and `evalImgs` of the first area and IoU; False without hotcoco.

    An evaluation whose overlap of two objects is computed by a method of ours is left to pycocotools too, and so are
    annotation files with ids that hotcoco reads in another way or refuses: texts, numbers below 0 and beyond 63 bits,
    and 0 for an annotation.
    """
    if type(evaluation).computeIoU is not COCOeval.computeIoU or find_spec("hotcoco") is None:
        return False
    ids = (*evaluation.cocoGt.imgs, *evaluation.cocoGt.cats)
    if any(type(each) is not int or not 0 <= each < 1 << 63 for each in ids) or 0 in evaluation.cocoGt.anns:
        return False
    import hotcoco

    params = evaluation.params
    truth = hotcoco.COCO(_plain(evaluation.cocoGt.dataset))
    found = hotcoco.COCO(_plain({**evaluation.cocoGt.dataset, **evaluation.cocoDt.dataset}))
    numbers = hotcoco.COCOeval(truth, found, params.iouType)
    _set(numbers.params, params)
    numbers.evaluate()
    numbers.accumulate()
    shape = tuple(len(getattr(params, name)) for name in ("iouThrs", "recThrs", "catIds", "areaRng", "maxDets"))
    evaluation.eval = {name: np.asarray(numbers.eval[name]).reshape(shape) for name in ("precision", "scores")}
    evaluation.eval["recall"] = np.asarray(numbers.eval["recall"]).reshape(shape[:1] + shape[2:])
    pairs = hotcoco.COCOeval(truth, found, params.iouType)
    _set(pairs.params, params)
    pairs.params.iouThrs, pairs.params.maxDets = params.iouThrs[:1].tolist(), [params.maxDets[-1]]
    pairs.params.areaRng, pairs.params.areaRngLbl = [list(params.areaRng[0])], params.areaRngLbl[:1]
    pairs.evaluate()
    evaluation.evalImgs = _in_places(pairs.evalImgs, params)
    return True


def _set(quick: object, params: object) -> None:
    """Give an evaluation of hotcoco the parameters of one of pycocotools."""
    for name in ("imgIds", "catIds", "maxDets", "areaRng", "areaRngLbl"):
        setattr(quick, name, np.asarray(getattr(params, name)).tolist())
    if params.iouType == "keypoints":
        quick.kpt_oks_sigmas = params.kpt_oks_sigmas.tolist()


def _plain(dataset: Mapping) -> Mapping:
    """A dataset of pycocotools with lists in the place of arrays of keypoints."""
    annotations = dataset["annotations"]
    if not annotations or "keypoints" not in annotations[0]:
        return dataset
    return {
        **dataset,
        "annotations": [{**each, "keypoints": np.asarray(each["keypoints"]).tolist()} for each in annotations],
    }


def _in_places(items: Sequence, params: object) -> list:
    """Entries ordered as in pycocotools, by class, area and image; None for nothing found, and for other areas."""
    classes, images = ({each: place for place, each in enumerate(ids)} for ids in (params.catIds, params.imgIds))
    entries: list = [None] * (len(classes) * len(params.areaRng) * len(images))
    for item in items:
        if item is not None:
            place = classes[item["category_id"]] * len(params.areaRng) * len(images) + images[item["image_id"]]
            arrays = {name: np.asarray(item[name]) for name in ("dtMatches", "dtIgnore", "gtIgnore")}
            entries[place] = {**item, **arrays}
    return entries
