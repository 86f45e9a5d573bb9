"""Exports: a file is compared first, and kept only where it agrees. Runtimes that are not installed are skipped.

What is refused: test_mistakes.py; what ends before its end: test_interrupted.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.files import atomic_export
from bitfalcon_plugin.export import run as exporting
from bitfalcon_plugin.export.compare import MismatchError, compare
from bitfalcon_plugin.export.formats import EXPORT_FORMATS
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.run import run_export
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.modules.bit_layers import BitConv2d
from bitfalcon_plugin.models.modules.conv import Conv
from tests.helpers.exports import EVERY, made, tiny
from tests.helpers.tiny_models import CONV, lived, small_model


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("format_", EVERY)
def test_each_format_is_written_compared_and_gives_what_the_network_gives(folder, capsys, format_, dynamic):
    # 1 position at the smallest image, 4 areas: some sizes need added ones. torch.export takes a minute to see it
    model = tiny() if dynamic and format_ == "pt2" else tiny((-1, 1, "A2C2f", [64, True, 4]))
    path = run_export(model, made(format=format_, dynamic=dynamic), "small.yaml", license="CC0").path
    assert path == Path(f"small{EXPORT_FORMATS[format_].suffix}")
    assert [item.name for item in folder.iterdir()] == [path.name]  # and nothing beside it
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("MB, float32", "CC0", "boxes matched", f"predict model={path}"))
    engine = open_exported(path, "cpu")
    assert (engine.names, engine.nc, engine.multiple) == (model.names, model.nc, model.multiple)
    assert engine.about.license == "CC0" and engine.about.imgsz == (64, 64)
    for shape in [(1, 3, 64, 64)] + [(3, 3, 36, 60), (2, 3, 4, 4), (1, 3, 4, 20)] * dynamic:
        images = torch.rand(shape)
        with torch.inference_mode():
            expected = model.decode(model(images))
        torch.testing.assert_close(engine.decode(engine(images)), expected, rtol=1e-3, atol=1e-3)


def test_what_differs_is_not_kept_and_an_earlier_file_stays(folder, monkeypatch, capsys):
    model, out = tiny(), folder / "x.torchscript"
    out.write_text("an earlier one")
    write = exporting.WRITERS["torchscript"]

    def wrong(job, path):
        with torch.no_grad():
            job.network.model.head.cv3[0][-1].bias.add_(0.1)
        write(job, path)

    monkeypatch.setitem(exporting.WRITERS, "torchscript", wrong)
    with pytest.raises(MismatchError, match="was not kept: it differs from the network .*boxes matched"):
        run_export(model, made(format="torchscript", out=str(out)), "small.yaml")
    assert [path.name for path in folder.iterdir()] == ["x.torchscript"] and out.read_text() == "an earlier one"
    monkeypatch.setattr(
        "bitfalcon_plugin.export.run.run_export", lambda *_: run_export(model, made(out=str(out)), "small.yaml")
    )
    assert main(["export", "model=yolov12-lite.yaml", "scale=n"]) == 1
    assert "not kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda output: output + 1,
        lambda output: output * float("nan"),
        lambda output: output[:, :, 1:],
        lambda output: torch.cat((output[:, :4], output[:, 4:] + 0.01), 1),
    ],
)
def test_the_comparison_sees_what_is_wrong(change):
    model = tiny().fuse()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        right = model.decode(model(images))
    assert compare(model, lambda _: right, [images], "float32").matched > 20
    with pytest.raises(MismatchError):
        compare(model, lambda _: change(right), [images], "float32")


def test_pictures_of_source_are_compared_and_folders_are_replaced_whole(folder, capsys):
    for index in range(6):
        Image.fromarray(np.random.RandomState(index).randint(0, 255, (40, 50, 3), np.uint8)).save(
            folder / f"{index}.png"
        )
    run_export(tiny(), made(format="torchscript", source=str(folder)), "small.yaml")
    assert "on 4 images" in capsys.readouterr().out
    target = folder / "y_openvino_model"
    for text in ("one", "two"):
        with atomic_export(target, is_folder=True) as path:
            (path / "model.xml").write_text(text)
    assert [item.read_text() for item in target.iterdir()] == ["two"]
    (target / "holiday.jpg").write_text("mine")
    with pytest.raises(UserError, match="other things"), atomic_export(target, is_folder=True):
        pass
    assert (target / "holiday.jpg").exists()


def network_with_8_bit_activations() -> Detector:
    torch.manual_seed(0)
    model = lived(small_model(CONV, *[(-1, 1, "Conv", [32, 3, 1 + (index == 0)]) for index in range(6)]))
    for block in list(model.modules()):
        if isinstance(block, Conv) and block is not model.model[0]:
            block.conv = BitConv2d.of(block.conv, rule="int8")
    for branch in (*model.head.cv3, *model.head.cv2):
        nn.init.normal_(branch[-1].weight, std=0.5)
    with torch.no_grad():
        model.train()(torch.rand(4, 3, 64, 64))
    model.eval()
    return model


def test_networks_with_8_bit_activations_are_held_to_their_own_unrest(folder, capsys, monkeypatch):
    model = network_with_8_bit_activations()
    with monkeypatch.context() as patch:
        patch.setattr("bitfalcon_plugin.export.compare.NUDGE", 1e-2)  # so few layers hardly move by less
        for format_ in ("pt2", "torchscript"):
            run_export(model, made(format=format_), "small.yaml")
    assert "moves the network's own results" in capsys.readouterr().out
    images = torch.rand(2, 3, 64, 64)
    model = model.requires_grad_(False).fuse()
    with torch.inference_mode():
        right = model.decode(model(images))
        with pytest.raises(MismatchError):
            compare(model, lambda _: torch.cat((right[:, :4] + 50, right[:, 4:]), 1), [images], "float32")


def test_more_changes_are_tried_before_such_a_network_is_refused(monkeypatch):
    model = network_with_8_bit_activations().requires_grad_(False).fuse()
    images = torch.rand(2, 3, 64, 64)
    monkeypatch.setattr("bitfalcon_plugin.export.compare.NUDGE", 1e-2)
    monkeypatch.setattr("bitfalcon_plugin.export.compare.FEW_NUDGES", 0)  # they see nothing
    noise = 1e-2 * torch.randn(images.shape)

    def rounds_another_way(images: torch.Tensor) -> torch.Tensor:
        return model.decode(model(images + noise))

    assert "moves the network's own results" in compare(model, rounds_another_way, [images], "float32").note
    monkeypatch.setattr("bitfalcon_plugin.export.compare.MANY_NUDGES", 0)
    with pytest.raises(MismatchError):
        compare(model, rounds_another_way, [images], "float32")
