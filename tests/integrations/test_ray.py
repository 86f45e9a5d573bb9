"""Prediction by Ray Data: the callable alone, and, where Ray is installed, a dataset one of whose actors is killed."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin import YOLO, UserError
from tests.helpers.coloured import GRAPH
from tests.helpers.paths import ROOT
from tests.helpers.small_yolo import save_weights

pytest.importorskip("pyarrow")

from bitfalcon_plugin.integrations.ray import BatchPredictor  # noqa: E402

IMAGES = 12
FOR_RAY = int(os.environ.get("BITFALCON_RAY_IMAGES", IMAGES))  # by hand with 2000


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "small.yaml").write_text(GRAPH)
    return str(save_weights(tmp_path, "small.pt"))


@pytest.fixture
def paths(tmp_path, request):
    (tmp_path / "in").mkdir()
    for index in range(getattr(request, "param", IMAGES)):
        pixels = np.random.default_rng(index).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"in/{index:05}.png")
    return sorted(map(str, (tmp_path / "in").iterdir()))


def predictor(weights, **settings):
    return BatchPredictor(weights, imgsz=64, conf=0.0, max_det=5, **settings)


def test_rows_are_those_of_predict_whatever_the_pictures_come_as(weights, paths):
    expected = YOLO(weights).predict(paths, imgsz=64, conf=0.0, max_det=5, verbose=False)
    batches = {
        "path": np.array(paths),
        "bytes": [open(path, "rb").read() for path in paths],
        "image": np.stack([np.asarray(Image.open(path)) for path in paths]),
    }
    call = pickle.loads(pickle.dumps(predictor(weights)))
    for key, column in batches.items():
        table = call({key: column, "number": np.arange(IMAGES)})
        assert table["number"].to_pylist() == list(range(IMAGES))
        assert table["image"].to_pylist() == (paths if key == "path" else [""] * IMAGES)
        for row, result in zip(table.to_pylist(), expected, strict=True):
            assert row["class"] == result.boxes.cls.tolist() and row["error"] is None
            torch.testing.assert_close(torch.tensor(row["box"]), result.boxes.xyxy, rtol=0, atol=1e-4)
    assert pickle.loads(pickle.dumps(call)).settings == call.settings  # a predictor with an open model, too


def test_a_broken_picture_has_a_row_that_says_why(weights, paths):
    contents = [open(paths[0], "rb").read(), b"no picture", b""]
    rows = predictor(weights)({"bytes": contents, "path": ["a", "b", "c"]}).to_pylist()
    assert [row["image"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["error"] is None and all(row["error"] and row["box"] is None for row in rows[1:])


def test_a_batch_without_images(weights):
    with pytest.raises(UserError, match="expected bytes, image or path"):
        predictor(weights)({"number": [1]})


class DiesOnce(BatchPredictor):
    """Ends its process without a word when it meets the sixth image for the first time."""

    def __call__(self, batch):
        marker = os.path.join(os.path.dirname(batch["path"][0]), "..", "died")
        if any(path.endswith("00005.png") for path in batch["path"]) and not os.path.exists(marker):
            open(marker, "w").close()
            os._exit(1)
        return super().__call__(batch)


@pytest.mark.parametrize("paths", [FOR_RAY], indirect=True)
def test_every_image_once_although_an_actor_dies(weights, paths, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": environment}, logging_level="ERROR")
    try:
        rows = ray.data.from_items([{"path": path} for path in paths]).map_batches(
            DiesOnce,
            fn_constructor_kwargs={"model": weights, "imgsz": 64, "conf": 0.0, "max_det": 5},
            concurrency=2,
            batch_size=max(3, len(paths) // 40),
        )
        images = [row["image"] for row in rows.take_all()]
    finally:
        ray.shutdown()
    assert (tmp_path / "died").exists()
    assert sorted(images) == paths
