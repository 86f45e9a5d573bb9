"""What `bitfalcon help` and `bitfalcon VERB --help` print: the verbs, and a verb's settings from cfg/default.yaml."""

from __future__ import annotations

import json
import re

from .default_table import active_settings, groups, keys_with
from .values import expected

HELP = """\
usage: bitfalcon VERB key=value ...

  train     train a detector                bitfalcon train model=yolov12.yaml scale=n data=data.yaml epochs=100
  val       COCO numbers of a checkpoint    bitfalcon val model=best.pt data=data.yaml split=test
  predict   boxes on images                 bitfalcon predict model=best.pt source=images/ conf=0.25
  track     boxes with an id an object      bitfalcon track model=best.pt source=video.mp4 tracker=botsort
  info      the rows of a model             bitfalcon info model=yolov12.yaml scale=l
  export    a file for other programs       bitfalcon export model=best.pt format=onnx imgsz=640
            onnx, torchscript, pt2, openvino; compared with the network first; predict and val take the file as model=
  convert   weights to another form         bitfalcon convert best.pt to=turbo out=y.pt
            out=x.safetensors or out=folder/ to share weights; without to=: to our format
  doctor    all that is wrong in a dataset  bitfalcon doctor data=data.yaml out=report.json
            ends with 0: nothing (notes are no fault), 1: warnings or errors, 2: there is no such dataset
  data      a dataset of another format     bitfalcon data to=yolo format=dota data=DOTA out=dota-yolo tile=1024
            tile=1024 cuts large images into tiles for training; format=yolo does so with a data.yaml
  selftest  does this machine train right?  bitfalcon selftest device=0
            trains the smallest model on shapes for some minutes; ends with 0: passed, 1: failed
  bit       ternary layers, step by step    bitfalcon bit mode=scan model=best.pt data=data.yaml
            mode=scan, replace, qat, report, pack: rank, replace, fine-tune, compare, write the small file
  sizes     what a larger model buys        bitfalcon sizes model=yolov12-lite.yaml scale=n,s,m data=data.yaml epochs=50
            trains each size under one budget, one table; after a kill: the same with resume=True
  tune      search for hyper-parameters     bitfalcon tune model=best.pt data=data.yaml iterations=50 epochs=20
            more processes, or after a kill: resume=True; what was best: train cfg=.../best_hyperparameters.yaml
  benchmark every engine, on this machine   bitfalcon benchmark model=best.pt data=data.yaml imgsz=640
            latency in turns, mAP, size, start-up, memory, agreement; format=onnx,torch,compile,... runs those only
  run       a script for the wider package  bitfalcon run script.py arguments...
            unchanged: its `import ultralytics` means bitfalcon; also a notebook.ipynb, -m module, yolo detect train ...
  cfg       print all settings, with what each means; copy-cfg writes them to default_copy.yaml
  settings  your own settings, kept         bitfalcon settings runs_dir=/data/runs; settings reset
  models    graphs and weights at hand      bitfalcon models "yolov12*"
  checks    print versions and devices
  completion  words for the Tab key         bitfalcon completion bash    (or zsh, fish: it prints how to install it)
  version   print the version
  help      print this

Words come in any order; `task=train` and `mode=train` are the same as `train`. Without data= the detector is
trained on generated shapes. The usual ones:

  model=yolov12.yaml       a graph (.yaml: cfg/models or a path) or weights (.pt, .safetensors)
  scale=n                  size of the graph, one of its letters; a number (scale=0.5) is the augmentation's gain
  variant=turbo            family of the attention blocks: v1, turbo, turbo-all-residual
  data=data.yaml           dataset: path, train, val, names
  epochs=100 batch=16 imgsz=640 device=cpu workers=8 seed=0
  project=runs name=first  where files land; otherwise runs/detect/train, train2, ...
  cfg=my.yaml              settings from a file; keys on the command line win
  cfg=yolov12-n            the YOLOv12 authors' recipe for a size: yolov12-n, -s, -m, -l, -x

bitfalcon task=train model=yolov12.yaml scale=n     the whole path, nothing else needed
`bitfalcon VERB --help` lists the settings of a verb. --json makes stdout one JSON document (info, val, doctor, checks,
benchmark, models). Add --debug to see where an error comes from.
"""

# Verb -> the groups of cfg/default.yaml of which it uses the settings, and further settings. Verbs with a column in
# that file (`verbs`, `not_for`) are not here.
TRAINED = ("train", "val and predict", "hyperparameters")
USED = {
    "train": (TRAINED, "model_scale variant warmup_floor sync_bn checkpointing allow_outside"),
    "val": (
        ("val and predict",),
        "model data batch imgsz device workers project name exist_ok single_cls compile allow_outside",
    ),
    "predict": (("val and predict", "show"), "model batch imgsz device project name exist_ok compile allow_url"),
    "track": (("val and predict", "show", "track"), "model batch imgsz device project name exist_ok compile allow_url"),
    "info": ((), "model model_scale variant imgsz verbose json"),
    "convert": ((), "model to out"),
    "tune": (("tune", *TRAINED), "model_scale variant allow_outside"),
    "sizes": (TRAINED, "model_scale variant allow_outside"),
    "bit": (TRAINED, "step by max_drop fmt out allow_outside"),
}
COLUMN_VERBS = ("doctor", "selftest", "export", "benchmark", "data")
WITH_JSON = ("info", "val", "doctor", "benchmark", "predict", "track")


def keys_of(verb: str) -> list[str]:
    """The settings that a verb uses, in the order of cfg/default.yaml; none for a command without settings."""
    if verb in COLUMN_VERBS:
        used = set(keys_with("verbs", verb))
    elif verb in USED:
        names, more = USED[verb]
        used = {key for name in names for key in groups()[name]} | set(more.split())
        used -= set(keys_with("not_for", "train")) if verb == "train" else set()
    else:
        return []
    used |= {"cfg", "task", "debug"} | ({"json"} if verb in WITH_JSON else set())
    return [key for key in active_settings() if key in used]


def verb_help(verb: str) -> str:
    """Return the lines of HELP about a verb, and a line for each of its settings: default, meaning and values."""
    block = re.search(rf"^  {verb}\b.*\n(?: {{12}}.*\n)*", HELP, re.M)
    lines = [block[0].rstrip() if block else f"  {verb}", ""]
    rows = active_settings()
    for key in keys_of(verb):
        shown = "scale" if key == "model_scale" else key
        default = f"{shown}={json.dumps(rows[key]['default'])}"
        lines.append(f"  {default:<24} {rows[key]['help']} ({expected(rows[key])})")
    return "\n".join(lines).rstrip() + "\n"
