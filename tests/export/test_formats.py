"""The table of formats. tests/house/test_pages.py compares the page of exports with it."""

from __future__ import annotations

from bitfalcon_plugin.export.formats import EXPORT_FORMATS, find_format, format_of
from bitfalcon_plugin.export.open import RUNTIMES
from bitfalcon_plugin.export.writers import WRITERS


def test_names_of_formats():
    assert find_format(" ONNX ") == "onnx" and find_format(".onnx") == "onnx"
    assert format_of("a/b_openvino_model/") == format_of("m.xml") == "openvino" and format_of("x.pt") is None
    assert format_of("x.engine") == "engine" and format_of("yolov12.yaml") is None


def test_each_format_is_refused_or_has_a_writer_and_a_runtime():
    for name, row in EXPORT_FORMATS.items():
        assert bool(row.reason) == (name not in WRITERS) == (name not in RUNTIMES)
