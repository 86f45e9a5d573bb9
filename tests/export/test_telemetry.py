"""Libraries that report their use are kept from it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bitfalcon_plugin.config.telemetry import SENDERS, SWITCHES, refuse_telemetry
from tests.helpers.exports import needs_onnx, needs_openvino

CODE = """
import sys
from bitfalcon_plugin.config.telemetry import refuse_telemetry
refuse_telemetry()
import {package}
if "{package}" == "onnxruntime":
    from onnx import TensorProto, helper
    node = helper.make_node("Relu", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
"""


@pytest.mark.parametrize(
    "package", [pytest.param("onnxruntime", marks=needs_onnx), pytest.param("openvino", marks=needs_openvino)]
)
def test_a_runtime_keeps_no_id_in_the_home_folder(tmp_path, package):
    environment = {key: value for key, value in os.environ.items() if key not in (*SWITCHES, "CI")}
    code = CODE.format(package=package)
    subprocess.run([sys.executable, "-c", code], env={**environment, "HOME": str(tmp_path)}, check=True)
    assert [str(path) for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_switch_that_is_set_stays_and_what_is_imported_stays(monkeypatch):
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.setitem(sys.modules, SENDERS[0], os)
    refuse_telemetry()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0" and sys.modules[SENDERS[0]] is os
