"""MNN computes with the number of threads that it is told; a stand-in for MNN shows what it is told."""

from __future__ import annotations

import json
import sys
import types

import torch

from bitfalcon_plugin.export.metadata import Metadata
from bitfalcon_plugin.export.runtimes.mnn import MnnRuntime
from bitfalcon_plugin.models.inference.threads import threads


def test_each_opening_of_a_file_has_the_number_of_threads(tmp_path, monkeypatch):
    """MNN opens a file without a manager with four threads, which stay: beside busy programs all is slow then."""
    texts = Metadata({0: "a"}, 32, (64, 64), args={"dynamic": True}, task="detect").texts()
    info = {"inputNames": ["images"], "outputNames": ["output0"], "bizCode": json.dumps(texts)}
    opened = []

    def load(path, inputs, outputs, runtime_manager=None):
        opened.append(runtime_manager)
        return types.SimpleNamespace(get_info=lambda: info)

    def manager(settings):
        return types.SimpleNamespace(count=settings[0]["numThread"], set_hint=lambda *_: None)

    nn = types.SimpleNamespace(create_runtime_manager=manager, load_module_from_file=load)
    monkeypatch.setitem(sys.modules, "MNN", types.SimpleNamespace(nn=nn, version=lambda: "3.6.1"))
    with threads(1):
        runtime = MnnRuntime(tmp_path / "x.mnn", torch.device("cpu"))
    assert [each.count for each in opened] == [1, 1] and runtime.names == {0: "a"}
