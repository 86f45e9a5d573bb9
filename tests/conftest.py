"""How pytest runs here: all tests in several processes, named files in one; each process has one thread of torch."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator

import pytest

MAX_PROCESSES = 4
# Files that take a quarter of a minute and more, the longest first: begun last, they would be waited for.
LONG_FILES = (
    "house/test_pages.py",
    "train/test_every_setting.py",
    "train/test_each_task.py",
    "train/test_machines.py",
    "train/test_two_processes.py",
    "export/test_pose_obb_export.py",
    "house/test_yamls.py",
    "attack/test_attack.py",
    "house/test_scripts.py",
    "train/test_pose.py",
    "benchmark/test_sizes.py",
    "train/test_resume.py",
    "export/test_kept_export.py",
    "benchmark/test_run.py",
    "export/test_writers.py",
    "train/test_signals.py",
    "models/weights/test_foreign.py",
    "export/test_seal.py",
    "models/test_detector.py",
    "train/test_run.py",
    "export/test_onnx_program.py",
    "train/test_settings_of_each_task.py",
    "house/test_types.py",
    "train/test_distributed.py",
    "attack/test_graphs.py",
    "train/test_loggers.py",
)

# The networks of tests are so small that a second thread costs more than it brings. Processes that tests start inherit
# the number.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# A process that a shell starts in the background ignores Ctrl-C, and so would the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A folder that does not exist: the settings of the user who runs the tests change none of them.
os.environ["BITFALCON_CONFIG"] = os.path.join(tempfile.gettempdir(), f"bitfalcon-tests-{os.getpid()}")


@pytest.fixture(autouse=True, scope="session")
def the_same_on_every_machine() -> Iterator[None]:
    """What is the same: trainings on the CPU in float32, however fast its bfloat16 is; COCO's numbers by pycocotools.

    ONNX files come from torch's older exporter, which takes a tenth of the time of the maintained one
    (tests/export/test_onnx_program.py).
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitfalcon_plugin.train.setup.step_gain", lambda *arguments: 1.0)
        patch.setattr("bitfalcon_plugin.tasks.quick_coco.find_spec", lambda name: None)
        patch.setattr("bitfalcon_plugin.export.onnx_graph._takes_program", lambda job: False)
        yield


@pytest.fixture(autouse=True)
def notes_are_printed_again() -> None:
    """A note that a process prints once is printed in each test."""
    if notes := sys.modules.get("bitfalcon_plugin.config.notes"):
        notes._PRINTED.clear()


@pytest.fixture(autouse=True)
def no_second_name_is_left() -> Iterator[None]:
    """A test that runs a script in this process takes the name `ultralytics` away again (helpers/running.as_it_was)."""
    yield
    finder = sys.modules.get("bitfalcon_plugin.dropin.finder")
    assert finder is None or not finder.FINDER.wider, "the test leaves `ultralytics` as a name of bitfalcon"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of processes of `-n auto`: 0, which is this process alone, where files or tests are named."""
    if config.getoption("file_or_dir"):
        return 0
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(processors, MAX_PROCESSES) if processors > 1 else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with LONG_FILES; the other files keep their order."""
    order = {f"tests/{name}": number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))
