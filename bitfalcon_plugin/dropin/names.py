"""Tables of module names: old places of modules, modules that are empty here, and what this package does not have.

All names are relative to the package: "engine.model", and "" for the package itself. Facts: spec/dropin.md section 2.
"""

from __future__ import annotations

TASKS = ("detect", "segment", "pose", "obb", "classify")

# Names that a module hands out at their first use: module -> name -> where it is ("module:attribute").
LAZY: dict[str, dict[str, str]] = {
    "": {
        "YOLO": "engine.model:YOLO",
        "ASSETS": "utils:ASSETS",
        "settings": "utils:SETTINGS",
        "checks": "utils.checks:check_yolo",
        "download": "utils.downloads:download",
    },
    "models": {"YOLO": "engine.model:YOLO"},
    "models.yolo": {"YOLO": "engine.model:YOLO"},
    # Functions beside the trainers, which scripts replace there.
    **{
        f"models.yolo.{task}": {
            "build_dataloader": "data.build:build_dataloader",
            "build_yolo_dataset": "data.build:build_yolo_dataset",
            "plot_images": "utils.plotting:plot_images",
            "plot_labels": "utils.plotting:plot_labels",
            "plot_results": "utils.plotting:plot_results",
            "DetectionModel": "nn.tasks:DetectionModel",
        }
        for task in TASKS
    },
}

# Old place of a module -> its place. A prefix stands for all modules below it; the longest prefix counts.
ALIASES: dict[str, str] = {
    "yolo": "",
    "yolo.v8": "models.yolo",
    "tracker": "trackers",
    "vit": "models",
    "models.yolo.model": "engine.model",
    # One module for a task: a global that a script replaces in models.yolo.detect.train counts there too.
    **{f"models.yolo.{task}.{part}": f"models.yolo.{task}" for task in TASKS for part in ("train", "val", "predict")},
}

LOGGERS = ("clearml", "comet", "dvc", "hub", "mlflow", "neptune", "raytune", "tensorboard", "wb")

# Modules with nothing to do here: nothing is sent to the loggers of other firms. Name -> their attributes.
EMPTY_MODULES: dict[str, dict[str, object]] = {f"utils.callbacks.{name}": {"callbacks": {}} for name in LOGGERS}

OTHER_MODELS = "Only models of YOLO graphs are here: YOLO('best.pt')."
BOXES_ONLY = (
    "Its maker's own package has it; YOLO('best.pt') here finds boxes, which other programs can take as prompts."
)
NO_SERVICE = "Nothing is sent to a service or fetched from one: give paths of files that you have."

# Classes that scripts import beside YOLO: name -> (what it is, the nearest way).
REFUSED: dict[str, tuple[str, str]] = {
    "RTDETR": ("a detector with a transformer decoder", OTHER_MODELS),
    "SAM": ("a segmenter with prompts", BOXES_ONLY),
    "FastSAM": ("a segmenter with prompts", BOXES_ONLY),
    "NAS": ("a detector of another architecture", OTHER_MODELS),
    "YOLOWorld": ("a detector of classes named by text", "Train the classes: YOLO('yolov12.yaml').train(data=...)."),
    "YOLOE": ("a detector of classes named by text", "Train the classes: YOLO('yolov12.yaml').train(data=...)."),
}
REFUSED_IN = ("", "models", "models.yolo")

# Modules whose every name is refused when it is used: module -> (what it is, the nearest way).
REFUSED_MODULES: dict[str, tuple[str, str]] = {
    "hub": ("a service of the wider package's makers", NO_SERVICE),
    "models.rtdetr": REFUSED["RTDETR"],
    "models.sam": REFUSED["SAM"],
    "models.fastsam": REFUSED["FastSAM"],
    "models.nas": REFUSED["NAS"],
    "models.yolo.world": REFUSED["YOLOWorld"],
    "models.yolo.yoloe": REFUSED["YOLOE"],
    "data.annotator": ("labels written by a segmenter", BOXES_ONLY),
    "data.explorer": ("a search over embeddings of images", "YOLO('best.pt').embed(images) returns the vectors."),
    "utils.triton": (
        "a client of an inference server",
        "export(format='onnx') writes the file that such servers read.",
    ),
}
