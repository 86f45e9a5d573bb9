"""Where files stand and what they import: rooms import from rooms below, and only declared packages."""

from __future__ import annotations

import ast
import sys

from tests.helpers.paths import ROOT
from tests.helpers.syntax import SHIPPED, imports_of, outside_imports, own_imports

# Rooms from the ground up: a file imports from rooms on lines above its own line, and inside a room there is no circle.
FLOORS = (
    "config",
    "compat ops plots",
    "models data",
    "tasks",
    "predict",
    "val",
    "export",  # val measures what export wrote
    "train",
    "benchmark",
    "bit track tune",
    "yolo",
    "dropin",
    "cli integrations",
    "__main__",
)
NO_TORCH = {
    "config",
    "config.callbacks",
    "config.installation_checks",
    "config.command_line",
    "config.errors",
    "config.exit_codes",
    "config.files",
    "config.json_output",
    "config.limited_process",
    "config.listing",
    "config.notes",
    "config.printable",
    "config.signals",
    "config.settings",
    "config.default_table",
    "config.run_folder",
    "config.threads",
    "config.unused",
    "config.user_settings",
    "config.usual_words",
    "config.missing_verb",
    "config.values",
    "config.version",
    "config.weight_files",
    "config.yaml_files",
    "dropin",
    "dropin.finder",
    "dropin.hook",
    "dropin.install",
    "dropin.metadata",
    "dropin.names",
    "dropin.notebook",
    "dropin.refused",
    "dropin.run",
    "export",
    "export.formats",
    "models",
    "models.graph",
    "models.graph.bit_policy",
    "models.graph.document",
    "models.graph.rows",
    "models.graph.rules",
    "ops",
    "ops.keypoint_layout",
    "cli",
    "__main__",
}
OUTSIDE = {"torch", "torchvision", "yaml", "pycocotools", "tqdm", "numpy", "PIL"}  # numpy, PIL: torchvision's own
EXTRAS = {  # optional packages: imported when a function is called
    "models.weights.safetensors_file": {"safetensors"},
    "plots.charts": {"matplotlib"},
    "plots.figure": {"matplotlib"},
    "plots.tradeoff": {"matplotlib"},
    "integrations.wandb": {"wandb"},
    "integrations.mlflow": {"mlflow"},
    "integrations.clearml": {"clearml"},
    "integrations.comet": {"comet_ml"},
    "tasks.quick_coco": {"hotcoco"},
    "config.tabular": {"pandas"},
    "dropin.notebook": {"nbformat", "nbclient", "jupyter_client", "IPython"},
    "data.large": {"rasterio"},
    "predict.rows": {"pyarrow"},
    "predict.shards": {"pyarrow"},
    "integrations.ray": {"pyarrow"},
    "predict.video": {"cv2"},
    "dropin.solutions.heatmap": {"supervision", "cv2"},
    "dropin.solutions.object_blurrer": {"supervision"},
    "dropin.solutions.object_cropper": {"supervision"},
    "dropin.solutions.solutions": {"supervision"},
    "dropin.solutions.speed_estimation": {"supervision"},
    "dropin.solutions.zones": {"supervision"},
    "track.library": {"trackers", "supervision"},
    "track.scores": {"trackers"},
    "export.runtimes.onnx": {"onnxruntime"},
    "export.runtimes.openvino": {"openvino"},
    "tune.study": {"optuna"},
    "export.runtimes.mnn": {"MNN"},
    "export.writers": {"onnx", "onnxruntime", "openvino", "nncf"},
    "export.runtimes.executorch": {"executorch"},
    "export.runtimes.litert": {"ai_edge_litert"},
    "export.runtimes.ncnn": {"ncnn"},
    "export.runtimes.coreml": {"coremltools"},
    "export.runtimes.tensorrt": {"tensorrt"},
    "export.writer_tensorrt": {"onnx", "tensorrt"},
    "export.pnnx_program": {"pnnx"},
    "export.onnx_graph": {"onnx"},
    "export.writers_mobile": {"onnx", "_tools", "executorch", "litert_torch", "ncnn", "coremltools"},
    "dropin.data.fitting": {"albumentations"},
    "dropin.utils.benchmarks": {"pandas"},
    "dropin.utils.guards": {"matplotlib"},
    "dropin.utils.plotting": {"matplotlib"},
}
ADAPTERS = {"integrations.sahi": {"sahi"}}  # for a package that they cannot be without: imported with it


def room(name: str) -> str:
    """The room of a module: the folder at the top of the package, or the file there."""
    return name.partition(".")[0]


def floor(name: str) -> int:
    """The line of FLOORS on which the room of a module stands; -1 where the room is not listed."""
    return next((number for number, line in enumerate(FLOORS) if room(name) in line.split()), -1)


def upward(name: str, target: str) -> bool:
    """Whether `target` stands in another room that file `name` may not import from."""
    return room(target) != room(name) and floor(target) >= floor(name)


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Names that import each other in a circle, the first once more at the end; [] where there is no circle."""
    done: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        path_back = next(filter(None, (search(target, [*path, name]) for target in sorted(imports.get(name, ())))), [])
        done.add(name)
        return path_back

    return next(filter(None, (search(name, []) for name in sorted(imports))), [])


def test_imports_point_down() -> None:
    names = SHIPPED.keys() - {"__init__"}
    assert [name for name in names if floor(name) < 0] == []  # give its room a place in FLOORS
    assert [
        f"{SHIPPED[name]}:{line} imports {target}"
        for name in names
        for line, target in own_imports(name, imports_of(SHIPPED[name])[0], SHIPPED[name].name == "__init__.py")
        if upward(name, target)
    ] == []


def test_no_circle_inside_a_room() -> None:
    imports = {
        name: {
            target
            for _, target in own_imports(name, imports_of(path)[0], path.name == "__init__.py")
            if room(target) == room(name)
        }
        for name, path in SHIPPED.items()
    }
    assert circle(imports) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"] and circle({"a": {"a"}}) == ["a", "a"]


def test_floors_list_no_more_than_there_is() -> None:
    assert {word for line in FLOORS for word in line.split()} == {room(name) for name in SHIPPED} - {"__init__"}


def test_at_the_top_there_are_doors_and_rooms_only() -> None:
    assert {path.name for path in (ROOT / "bitfalcon_plugin").glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "yolo.py",
        "cli.py",
    }


def test_the_rule_sees_every_form_of_import() -> None:
    text = (
        "from ..yolo import x\nfrom ..config import errors\nimport bitfalcon_plugin.models.detector\n"
        "def f():\n  from .assign import y\nfrom ..bit import packing"
    )
    imports = dict(own_imports("tasks.detect", ast.parse(text), False))
    assert imports == {1: "yolo", 2: "config.errors", 3: "models.detector", 5: "tasks.assign", 6: "bit.packing"}
    assert [name for name in imports.values() if upward("tasks.detect", name)] == ["yolo", "bit.packing"]
    assert (
        upward("models.build", "data.dataset")
        and upward("data.dataset", "models.build")
        and not upward("cli", "config.settings")
    )


def packages(tree: ast.AST) -> set[str]:
    """The packages outside of ours that a tree imports."""
    return {module.partition(".")[0] for module in outside_imports(tree)}


def test_only_declared_packages_are_imported() -> None:
    wrong = {}
    for name, path in SHIPPED.items():
        known = {"torch"} if name.partition(".")[0] == "compat" else OUTSIDE
        known, (everything, at_load) = known | {*sys.stdlib_module_names} | ADAPTERS.get(name, set()), imports_of(path)
        wrong[name] = packages(at_load) - known | packages(everything) - known - EXTRAS.get(name, set())
    assert {name: found for name, found in wrong.items() if found} == {}


def test_no_torch_before_it_is_needed() -> None:
    for name in sorted(NO_TORCH):
        tree = imports_of(SHIPPED[name])[1]
        assert not packages(tree) & (OUTSIDE - {"yaml"}), name
        assert {target for _, target in own_imports(name, tree, False)} <= NO_TORCH, name


def test_torchvision_is_imported_where_it_is_used() -> None:
    """Its import takes torch's compiler with it and doubles the start of every command."""
    assert [name for name, path in SHIPPED.items() if "torchvision" in packages(imports_of(path)[1])] == []


def test_the_package_itself_imports_only_how_threads_wait() -> None:
    """What has to happen before torch is loaded; every further import would cost a moment at each start."""
    tree = imports_of(SHIPPED["__init__"])[1]
    assert {target for _, target in own_imports("__init__", tree, True)} == {"config.threads"}
    assert outside_imports(tree) <= {"__future__", "__future__.annotations"}
    assert "pathlib" not in outside_imports(imports_of(SHIPPED["config.threads"])[1])


def test_cfg_holds_data_only() -> None:
    files = [path.relative_to(ROOT / "cfg") for path in (ROOT / "cfg").rglob("*") if path.is_file()]
    assert [str(path) for path in files if path.suffix != ".yaml" and str(path) != "README.md"] == []
