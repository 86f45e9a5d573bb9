"""Words that people type for the verbs and settings of this program: suggestions go by what a word means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .errors import did_you_mean

# What to write -> the words that mean it. Words that are verbs here are not among them.
MEANINGS: Mapping[str, str] = {
    "train": "fit finetune fine-tune retrain learn training",
    "train resume=True": "resume continue",
    "val": "eval evaluate evaluation validate validation valid metrics map",
    "val split=test": "test testing",
    "predict": "infer inference detection predictor prediction run-inference demo image photo",
    "predict source=0": "webcam camera cam live",
    "predict source=video.mp4": "video stream",
    "track": "tracking tracker follow mot reid",
    "tune": "tuning tuner evolve evolution hpo hyp hyperopt hyperparameters hyper-parameters search sweep optuna ray",
    "export": "deploy save-as compile-model",
    "export format=onnx": "onnx onnxruntime",
    "export format=openvino": "openvino",
    "export format=torchscript": "torchscript jit",
    "export int8=True format=openvino": "int8 ptq",
    "info": "summary layers architecture parameters flops show-model describe",
    "benchmark": "bench benchmarks speed fps latency timing",
    "data to=yolo": "convert-dataset convert_data convert-data split-data tiling slice dota dota2yolo",
    "doctor": "lint clean verify dataset check-data labels-check",
    "models": "list zoo list-models model-list model-zoo",
    "completion": "autocomplete complete completions tab bash zsh fish",
    "settings": "setting preferences prefs set reset",
    "cfg": "config configuration default defaults options args hyps",
    "copy-cfg": "copycfg copy_cfg",
    "checks": "check env environment system system-info collect_env diagnose",
    "version": "ver --ver",
    "help": "usage man commands",
    "run": "script notebook exec python",
    "run script.py": "solutions count counter counting heatmap zones region blur crop speed-estimation queue parking",
}
NOT_HERE = {  # word -> why there is nothing like it
    **dict.fromkeys(
        ("hub", "login", "logout", "signup", "upload", "account"), "There is no account and no service here."
    ),
    **dict.fromkeys(("download", "fetch"), "Nothing is downloaded: give a file that you have as model=."),
    **dict.fromkeys(("install", "update", "upgrade"), "pip installs and updates: pip install -U bitfalcon."),
}
# Setting -> names of other tools for it.
SETTING_MEANINGS: Mapping[str, str] = {
    "model": "checkpoint ckpt model_path weight weights_path network arch",
    "data": "dataset data_yaml dataset_yaml data_path data_dir yaml",
    "source": "input image images video img_path image_path file path inputs src",
    "epochs": "n_epochs num_epochs max_epochs total_epochs",
    "batch": "bs batchsize batch_sz train_batch_size",
    "imgsz": "image_size img_sz imgsize size resolution input_size input_shape image_sz",
    "device": "gpu gpus cuda cpu devices accelerator gpu_id",
    "workers": "num_workers n_workers threads num_threads",
    "lr0": "lr learning_rate initial_lr base_lr lr_init",
    "lrf": "final_lr lr_final min_lr",
    "weight_decay": "wd l2 decay",
    "patience": "early_stopping early_stop es_patience",
    "conf": "confidence threshold score_thr score_threshold conf_threshold confidence_threshold thresh",
    "iou": "iou_threshold nms_iou nms_threshold nms_thres",
    "max_det": "max_detections topk max_boxes",
    "half": "fp16 float16 half_precision",
    "amp": "mixed_precision autocast precision",
    "project": "output output_dir out_dir save_path log_dir results_dir",
    "name": "run_name exp experiment exp_name",
    "pretrained": "init_weights pretrained_weights backbone",
    "optimizer": "optim opt solver",
    "cos_lr": "scheduler lr_scheduler cosine",
    "single_cls": "single_class one_class",
    "resume": "resume_from continue_from",
    "seed": "random_seed random_state",
    "iterations": "n_trials trials num_trials max_trials",
    "format": "export_format fmt_export include",
    "fliplr": "hflip horizontal_flip",
    "flipud": "vflip vertical_flip",
    "degrees": "rotation rotate",
    "line_width": "thickness linewidth",
    "vid_stride": "frame_skip skip_frames stride",
}


def advice(word: str, choices: Iterable[str]) -> str:
    """Return " Did you mean ...?" with what `word` usually means, otherwise with the most similar of the choices."""
    word = word.lower()
    if reason := NOT_HERE.get(word):
        return f" {reason}"
    meaning = next((written for written, words in MEANINGS.items() if word in words.split()), None)
    return f" Did you mean {meaning!r}?" if meaning else did_you_mean(word, choices)


def setting_meant(key: str) -> str | None:
    """Return the setting that other tools call `key`; None where no such name is known."""
    word = key.lower().replace("-", "_")
    return next((setting for setting, names in SETTING_MEANINGS.items() if word in names.split()), None)
