"""Annotation files of COCO's format: what is read, and what is refused, with file, entry, expectation and repair."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask

from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data.dataset import Scan, scan
from bitfalcon_plugin.data.formats import coco_file
from bitfalcon_plugin.data.formats.coco_labels import Wish
from bitfalcon_plugin.data.formats.coco_shapes import run_lengths
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.ops.polygons import fill_each
from bitfalcon_plugin.tasks import TASKS
from tests.helpers.coco_files import coco_dataset
from tests.helpers.tiny_dataset import image, write_yaml

BOX = {"id": 1, "image_id": 5, "category_id": 2, "bbox": [4, 4, 10, 10]}
BASE = {
    "images": [{"id": 5, "file_name": "a.png", "width": 32, "height": 24}],
    "categories": [{"id": 2, "name": "cat"}],
    "annotations": [BOX],
}
NOSE = [{"id": 2, "name": "cat", "keypoints": ["nose"]}]
SQUARE = [4, 4, 14, 4, 14, 14]


def written(folder: Path, content: object, **keys: object) -> Path:
    """A dataset with one annotation file for train and val, and a picture of 32 x 24 px."""
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    folder.mkdir(exist_ok=True)
    (folder / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    image(folder / "a.png")
    return write_yaml(folder / "data.yaml", {"train": "a.json", "val": "a.json", **keys})


def read(path: Path, part: str = "", **options: object) -> Scan:
    return scan(load_data(path), "train", wish=Wish(part, **options))


def refusal(path: Path, part: str = "", **options: object) -> str:
    with pytest.raises(UserError) as error:
        read(path, part, **options)
    return str(error.value)


def changed(key: str, **values: object) -> dict:
    """BASE with other values in the first entry of a list; None removes a key."""
    entry = {name: value for name, value in {**BASE[key][0], **values}.items() if value is not None}
    return {**BASE, key: [entry]}


WRONG = {
    "no json": ('{"images": [', "a.json:1: column", "not JSON", "Was the file cut off?"),
    "binary": (b"\xff\xfe\x00", "not UTF-8 text"),
    "a list": ([BOX], "holds a list, like the detections in a predictions.json"),
    "a number": (5, "holds int; expected COCO's annotations"),
    "deep": ("[" * 100_000, "nested too deep"),
    "long number": ('{"images": ' + "9" * 5000 + "}", "not JSON"),
    "no images": ({"annotations": []}, "the key 'images' is missing", "the key 'categories' is missing"),
    "no annotations": ({"images": [], "categories": []}, "the key 'annotations' is missing"),
    "images no list": ({**BASE, "images": {}}, "images is {}; expected a list"),
    "an entry no object": ({**BASE, "annotations": [3]}, "annotations[0] is 3; expected an object"),
    "no id": (changed("annotations", id=None), "annotations[0] has no id; expected a whole number"),
    "id of text": (changed("categories", id="x"), "categories[0] has id 'x'; expected a whole number"),
    "dangling image": (changed("annotations", image_id=6), "(id 1): image_id 6 is the id of none of the 1"),
    "image of another type": (changed("annotations", image_id="5"), "5 is one, of another type"),
    "dangling category": (changed("annotations", category_id=9), "category_id 9 is the id of none of the 1 categories"),
    "two with one id": ({**BASE, "annotations": [BOX, BOX]}, "annotations[1] (id 1): annotations[0] has this id too"),
    "image id twice": (
        {**BASE, "images": [BASE["images"][0], {**BASE["images"][0], "file_name": "b.png"}]},
        "images[1] (id 5): images[0] has this id too",
    ),
    "file name twice": (
        {**BASE, "images": [BASE["images"][0], {**BASE["images"][0], "id": 6}]},
        "file_name 'a.png' is that of images[0] too",
    ),
    "category twice": (
        {**BASE, "categories": [{"id": 2, "name": "cat"}, {"id": 3, "name": "cat"}]},
        "name 'cat' is that of categories[0] too",
    ),
    "no file name": (changed("images", file_name=None), "the key 'file_name' is missing"),
    "controls in a file name": (changed("images", file_name="a\n.png"), "file_name 'a\\n.png' has control characters"),
    "controls in a category": (changed("categories", name="c\x1bat"), "name 'c\\x1bat' has control characters"),
    "sides of no image": (changed("images", width=0), "height 24, width 0; expected the sides"),
    "sizes that lie": (changed("images", width=320), "the size is 320 x 24 pixels, the picture has 32 x 24"),
    "sizes exchanged": (changed("images", width=24, height=32), "exchanged, perhaps because the picture is turned"),
    "a path that leaves": (changed("images", file_name="../x.png"), "'../x.png' leads out of the dataset's folder"),
    "an absolute path": (changed("images", file_name="/etc/x.png"), "leads out of the dataset's folder"),
    "an address": (changed("images", file_name="http://x/y.png"), "is a remote address; nothing is fetched"),
    "box outside": (changed("annotations", bbox=[40, 4, 8, 8]), "bbox [40.0, 4.0, 8.0, 8.0] lies outside its image"),
    "box of shares": (changed("annotations", bbox=[0.5, 0.5, 9e9, 1]), "four finite numbers in pixels"),
    "negative side": (changed("annotations", bbox=[9, 9, -3, 4]), "has a negative side; expected [x, y, width,"),
    "nan": (json.dumps(changed("annotations", bbox=[4, 4, float("nan"), 3])), "bbox [4, 4, nan, 3]; expected"),
    "three numbers": (changed("annotations", bbox=[4, 4, 3]), "bbox [4, 4, 3]; expected [x, y, width, height]"),
    "no bbox": (changed("annotations", bbox=None), "annotations[0] (id 1): no bbox"),
    "area of text": (changed("annotations", area="big"), "area 'big'; expected a number of pixels"),
    "too many keypoints": (changed("annotations", num_keypoints=2**70), "expected the number of labelled keypoints"),
    "iscrowd 2": (changed("annotations", iscrowd=2), "iscrowd 2; expected 0 (an object) or 1 (a group)"),
    "odd polygon": (changed("annotations", segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "segmentation[0] has 7 numbers"),
    "flat polygon": (changed("annotations", segmentation=SQUARE), "segmentation[0] is 4; expected a list of numbers"),
    "polygon with nan": (
        json.dumps(changed("annotations", segmentation=[[float("nan"), *SQUARE[1:]]])),
        "segmentation[0] holds nan where a finite number",
    ),
    "runs too short": (
        changed("annotations", segmentation={"size": [24, 32], "counts": [100, 5]}),
        "the counts of segmentation add up to 105; expected 24 x 32 = 768 pixels",
    ),
    "runs of another size": (
        changed("annotations", segmentation={"size": [32, 24], "counts": [768]}),
        "size [32, 24], its image [24, 32] (width and height exchanged)",
    ),
    "runs of nonsense": (
        changed("annotations", segmentation={"size": [24, 32], "counts": "~~~"}),
        "segmentation has counts '~~~'; expected run lengths",
    ),
    "keypoints too short": (
        {**changed("annotations", keypoints=[1, 2]), "categories": NOSE},
        "keypoints: 2 numbers; expected 3",
    ),
    "keypoints without names": (changed("annotations", keypoints=[1, 2, 2]), "its category names none"),
    "visibility": (
        {**changed("annotations", keypoints=[1, 2, 5]), "categories": NOSE},
        "visibility 5; expected 0 (not labelled), 1 (hidden) or 2 (visible)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_told(tmp_path, case):
    content, *expected = WRONG[case]
    message = refusal(written(tmp_path / "set", content))
    assert "a.json" in message and all(text in message for text in expected), message


LARGE = {"size": [10**6, 10**6], "counts": [10**9] * 1000}  # adds up
LIES = {
    "run lengths": (LARGE, "size [1000000, 1000000], its picture has 32 x 24 pixels"),
    "a group": (LARGE, "size [1000000, 1000000], its picture has 32 x 24 pixels"),
    "exchanged": ({"size": [32, 24], "counts": [768]}, "size [32, 24], its picture has 32 x 24 pixels"),
    "a polygon": ([[0, 0, 9e8, 0, 9e8, 9e8]], "far outside its image of 32 x 24 pixels"),
    "a part": ([SQUARE, [0, 0, 5, 0, 5, -9e8]], "far outside its image of 32 x 24 pixels"),
}


@pytest.mark.parametrize("case", LIES)
@pytest.mark.parametrize("sides", [{"width": None, "height": None}, {"width": 10**6, "height": 10**6}])
def test_masks_of_enormous_size_are_told_before_pycocotools_draws_them(tmp_path, case, sides):
    """pycocotools ended the process where it got no memory."""
    shape, message = LIES[case]
    if sides["width"] and isinstance(shape, dict) and shape is not LARGE:
        pytest.skip("told when the file is read")
    entry = {**BOX, "segmentation": shape, "iscrowd": int(case == "a group")}
    path = written(tmp_path / "set", {**changed("images", **sides), "annotations": [entry]})
    assert message in refusal(path, "outlines", truth=True)


def test_a_broken_file_is_parsed_once(tmp_path, monkeypatch):
    path = written(tmp_path / "set", {**BASE, "annotations": 5})
    first = refusal(path)
    monkeypatch.setattr(coco_file, "_parse", None)
    assert refusal(path) == first


def test_all_problems_are_told_at_once(tmp_path):
    entries = [{**BOX, "id": number, "image_id": 9} for number in range(4)]
    assert refusal(written(tmp_path, {**BASE, "annotations": entries})).count("image_id 9") == 4


def test_unknown_categories_and_files_that_are_not_there(tmp_path):
    assert "category 'cat' is none of the classes" in refusal(written(tmp_path, BASE, names=["dog", "cart"]))
    path = written(tmp_path, changed("images", file_name="elsewhere/b.png"))
    with pytest.raises(MissingFileError, match="`images:` in the YAML names the folder"):
        read(path)
    (tmp_path / "a.json").unlink()
    with pytest.raises((MissingFileError, UserError), match="a.json"):
        read(write_yaml(tmp_path / "data.yaml", {"train": "a.json", "val": "a.json", "names": ["cat"]}))


def test_what_can_be_repaired_is_noted(tmp_path):
    entries = [
        {**BOX, "bbox": [-3, 4, 10, 10]},
        {**BOX, "id": 2, "bbox": [4, 4, 0, 10]},
        {**BOX, "id": 3, "iscrowd": 1},
    ]
    content = read(written(tmp_path, {**BASE, "annotations": entries}), truth=True)
    assert len(content.samples[0].labels) == 1 and len(content.samples[0].truth.boxes) == 3
    notes = "\n".join(content.notes)
    assert "(id 1): bbox [-3.0, 4.0, 10.0, 10.0] reaches beyond its image of 32 x 24 pixels, clipped" in notes
    assert "(id 2)" in notes and "without area, left out" in notes and "1 groups of objects" in notes
    assert content.samples[0].labels.boxes.min() == 0


def test_files_are_found_where_people_have_them(tmp_path):
    for number, (file, folder) in enumerate(
        [
            ("annotations/instances_val2017.json", "val2017"),
            ("annotations/instances_val2017.json", "images/val2017"),
            ("train/_annotations.coco.json", "train"),
            ("train.json", "images"),
            ("train.json", "images/train"),
            ("train.json", "."),
            ("deep/a.json", "deep/images"),
        ]
    ):
        root = tmp_path / str(number)
        (root / file).parent.mkdir(parents=True)
        (root / file).write_text(json.dumps(BASE))
        image(root / folder / "a.png")
        entry = "train" if file.startswith("train/") else file
        path = write_yaml(root / "data.yaml", {"format": "coco", "train": entry})
        assert read(path).samples[0].image == Path(os.path.abspath(root / folder / "a.png"))


def test_run_lengths_of_both_kinds_agree_with_pycocotools():
    generator = np.random.default_rng(3)
    for _ in range(50):
        plane = (generator.random((13, 17)) < generator.random()).astype(np.uint8)
        code = mask.encode(np.asfortranarray(plane))
        column = plane.flatten(order="F")
        lengths = run_lengths(code["counts"].decode())
        assert (np.repeat(np.arange(len(lengths)) % 2, lengths) == column).all()


def test_outlines_fill_what_the_run_lengths_say(tmp_path):
    coco_dataset(tmp_path)
    content = scan(load_data(tmp_path / "data.yaml"), "train", wish=Wish("outlines", exact=True, truth=True))
    checked = 0
    for sample in content.samples:
        planes = fill_each(sample.pixel_labels().polygons, sample.size) if len(sample.labels) else []
        shapes = [(shape, code) for shape, code, crowd in
                  zip(sample.truth.segments, sample.truth.masks, sample.truth.crowd) if not crowd]  # fmt: skip
        for plane, (shape, code) in zip(planes, shapes, strict=True):
            if isinstance(shape, dict):
                assert (plane.numpy() == mask.decode(code).astype(bool)).all()
                checked += 1
    assert checked > 2


def test_boxes_without_outlines_are_told_or_taken(tmp_path):
    assert "no segmentation; task=segment needs outlines" in refusal(written(tmp_path, BASE), "outlines")
    assert len(read(written(tmp_path, BASE), "outlines", optional=True).samples[0].labels) == 1
    assert "no keypoints; task=pose needs those of every object" in refusal(written(tmp_path, BASE), "keypoints")
    assert "task=obb reads label files" in refusal(written(tmp_path, BASE), "corners")


def test_keypoints_and_their_mirror_come_from_the_file(tmp_path):
    coco_dataset(tmp_path, keypoints=True)
    data = load_data(tmp_path / "data.yaml")
    assert data.kpt_shape == (3, 3) and data.keypoints.flip == (0, 2, 1) and data.keypoints.limbs == ((0, 1), (0, 2))
    sample = next(each for each in read(tmp_path / "data.yaml", "keypoints", truth=True).samples if len(each.labels))
    kept = ~sample.truth.crowd
    seen = sample.truth.keypoints[kept][..., 2] > 0
    points = sample.pixel_labels().keypoints.numpy()
    assert np.allclose(points[seen], sample.truth.keypoints[kept][seen], atol=1e-4)


def test_files_that_are_to_name_classes_and_keypoints_are_told_before_a_model_is_built(tmp_path):
    wrong = {**BASE, "categories": NOSE, "annotations": [{**BOX, "keypoints": [4, 4, 7]}]}
    with pytest.raises(UserError, match=r"(?s)a\.json: annotations\[0\] \(id 1\): a keypoint has visibility 7"):
        load_data(written(tmp_path, wrong))
    poses, settings = TASKS["pose"].data, load_settings({})
    with pytest.raises(UserError, match="a keypoint has visibility 7"):
        poses.load(written(tmp_path, wrong, names=["cat"]), settings)
    with pytest.raises(UserError, match="no category of its annotation files has `keypoints`, a list of names"):
        poses.load(written(tmp_path, BASE), settings)
    with pytest.raises(UserError, match="has no names:, and no COCO file of it a class"):
        load_data(written(tmp_path, {**BASE, "categories": [], "annotations": []}))
    path = written(tmp_path, BASE)
    (tmp_path / "a.json").unlink()
    with pytest.raises(MissingFileError, match="a.json' is not there"):
        load_data(path)


def test_kpt_shape_beside_the_keypoints_of_the_categories(tmp_path):
    content = {**BASE, "categories": NOSE, "annotations": [{**BOX, "keypoints": [4, 4, 2]}]}
    with pytest.raises(UserError, match=r"kpt_shape: \[3, 3\], but the categories .* name 1 keypoints \(nose\)"):
        load_data(written(tmp_path, content, kpt_shape=[3, 3]))
    layout = load_data(written(tmp_path, content, kpt_shape=[1, 2], names=["cat"])).keypoints
    assert layout.shape == (1, 2) and layout.name(0) == "nose"


def test_a_large_file_is_parsed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(coco_file, "LEAST_BYTES", 1)
    path = coco_dataset(tmp_path / "set")
    first = read(path, "outlines", truth=True)
    monkeypatch.setattr(coco_file, "_parse", None)
    second = read(path, "outlines", truth=True)
    for one, other in zip(first.samples, second.samples, strict=True):
        assert one.labels.boxes.equal(other.labels.boxes)
        assert (one.truth.boxes == other.truth.boxes).all() and one.truth.masks == other.truth.masks
    for file in (tmp_path / "cache/annotations").iterdir():
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    coco_file._recent.clear()
    with pytest.raises(TypeError):  # what was kept is broken, and _parse is gone
        read(path)
