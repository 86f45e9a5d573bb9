"""A stand-in for TensorRT on machines without a GPU: it keeps to the order of calls of the real one, and computes.

An "engine" is the ONNX graph that was parsed, with its profile. onnxruntime runs it on the memory whose addresses it
was given. The names are those of the bindings of TensorRT 10 and 11; the fake raises AssertionError for what the
documentation of these forbids.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import types
from enum import Enum, IntEnum

import numpy as np
import torch

GPU = "NVIDIA H200"


class FakeTensorRt(types.ModuleType):
    """The module `tensorrt`.

    calls: what was asked of it, in order. error: added to every output. fails: the step that fails: parse, build,
    memory or execute.
    """

    def __init__(self):
        super().__init__("tensorrt")
        self.__version__ = "11.4.0.106"
        self.calls, self.error, self.fails = [], 0.0, ""

        class Logger:
            INTERNAL_ERROR, ERROR, WARNING = "internal error", "error", "warning"

            def __init__(self):
                pass

        self.ILogger = Logger
        self.NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", [("STRONGLY_TYPED", 0)])
        self.BuilderFlag = Enum("BuilderFlag", ["TF32"])
        self.MemoryPoolType = Enum("MemoryPoolType", ["WORKSPACE"])
        self.TensorIOMode = Enum("TensorIOMode", ["INPUT", "OUTPUT"])
        self.DataType = Enum("DataType", ["FLOAT", "HALF"])
        self.Builder = lambda log: Builder(self, log)
        self.OnnxParser = lambda network, log: Parser(self, network, log)
        self.Runtime = lambda log: Runtime(self, log)


class Builder:
    def __init__(self, module: FakeTensorRt, log: object):
        self.module, self.log = module, log

    def create_network(self, flags: int = 0) -> types.SimpleNamespace:
        self.module.calls.append(("create_network", flags))
        return types.SimpleNamespace(graph=None)

    def create_builder_config(self) -> Config:
        return Config(self.module)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: object, config: Config) -> bytes | None:
        """The engine; None, and an error to the logger, where this step fails."""
        self.module.calls.append(("build", config.profile is not None))
        if self.module.fails == "build":
            self.log.log(self.log.WARNING, "not this one")
            self.log.log(self.log.ERROR, "no implementation for\nnode /model/Conv.")
            return None
        assert network.graph is not None
        profile = config.profile and config.profile.shapes
        return json.dumps(profile).encode() + b"\n" + network.graph


class Config:
    def __init__(self, module: FakeTensorRt):
        self.module, self.profile = module, None

    def clear_flag(self, flag: Enum) -> None:
        self.module.calls.append(("clear_flag", flag.name))

    def set_memory_pool_limit(self, pool: Enum, size: int) -> None:
        assert isinstance(size, int)
        self.module.calls.append(("set_memory_pool_limit", pool.name, size))

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profile = profile
        return 0 if profile.shapes else -1


class Profile:
    def __init__(self):
        self.shapes = None

    def set_shape(self, name: str, least: tuple, usual: tuple, most: tuple) -> None:
        assert name == "images" and all(a <= b <= c for a, b, c in zip(least, usual, most))
        self.shapes = [list(least), list(usual), list(most)]


class Parser:
    def __init__(self, module: FakeTensorRt, network: object, log: object):
        self.module, self.network, self.num_errors = module, network, 0

    def parse(self, graph: bytes) -> bool:
        assert isinstance(graph, bytes)
        self.network.graph = graph
        self.num_errors = 1 if self.module.fails == "parse" else 0
        return not self.num_errors

    def get_error(self, index: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(desc=lambda: "no importer\nfor operation Strange.")


class Runtime:
    engine_host_code_allowed = True

    def __init__(self, module: FakeTensorRt, log: object):
        self.module, self.log = module, log

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        assert self.engine_host_code_allowed is False
        if b"\n" not in plan:
            self.log.log(self.log.ERROR, "magic tag does not match")
            return None
        profile, _, graph = plan.partition(b"\n")
        return Engine(self.module, json.loads(profile), graph)


class Engine:
    """An engine names its tensors in an order of its own."""

    def __init__(self, module: FakeTensorRt, profile: list | None, graph: bytes):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.module, self.profile = module, profile
        entries = [*self.session.get_outputs(), *self.session.get_inputs()][::-1]
        self.types, self.names = {entry.name: entry.type for entry in entries}, [entry.name for entry in entries]
        self.names.append(self.names.pop(0))  # the input is not the first

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Enum:
        return self.module.TensorIOMode["INPUT" if name == "images" else "OUTPUT"]

    def get_tensor_dtype(self, name: str) -> Enum:
        return self.module.DataType["FLOAT" if self.types[name] == "tensor(float)" else "HALF"]

    def create_execution_context(self) -> Context | None:
        return None if self.module.fails == "memory" else Context(self)


class Context:
    """Runs an engine on memory that was announced by its address, once a stream is given."""

    def __init__(self, engine: Engine):
        self.engine, self.shape, self.addresses = engine, None, {}
        self.outputs = [name for name in engine.names if name != "images"]

    def set_input_shape(self, name: str, shape: tuple) -> bool:
        fixed, profile = self.engine.session.get_inputs()[0].shape, self.engine.profile
        self.shape, self.addresses = shape, {}
        if profile is None:
            return list(shape) == fixed
        return all(low <= side <= high for low, side, high in zip(profile[0], shape, profile[2]))

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self.engine.session.run(self.outputs, {"images": images})))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._run(np.zeros(self.shape, np.float32))[name].shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address != 0

    def execute_async_v3(self, stream: int) -> bool:
        assert stream and set(self.addresses) == set(self.engine.names)
        self.engine.module.calls.append(("execute", self.shape))
        if self.engine.module.fails == "execute":
            return False
        images = _memory(self.addresses["images"], self.shape).copy()
        for name, values in self._run(images).items():
            _memory(self.addresses[name], values.shape)[...] = values + self.engine.module.error
        return True


def _memory(address: int, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 numbers that lie at an address."""
    count = int(np.prod(shape))
    return np.frombuffer((ctypes.c_float * count).from_address(address), np.float32).reshape(shape)


class FakeStream:
    """A stream of CUDA. The fake computes at once, so there is nothing to wait for."""

    cuda_stream = 7

    def __init__(self, device: torch.device):
        pass

    def wait_stream(self, other: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


CUDA = {  # what the code asks of torch.cuda
    "device": lambda device: contextlib.nullcontext(),
    "Stream": FakeStream,
    "current_stream": lambda device: None,
    "get_device_name": lambda device: GPU,
}
