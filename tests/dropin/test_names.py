"""Every name of spec/dropin.md and dropin-helpers.md can be imported from where scripts import it."""

from __future__ import annotations

import importlib

import pytest

from bitfalcon_plugin.dropin.hook import install
from tests.helpers.running import as_it_was  # noqa: F401

TASKS = {"detect": "Detection", "segment": "Segmentation", "pose": "Pose", "obb": "OBB", "classify": "Classification"}
NAMES = {
    "": "YOLO YOLOWorld YOLOE RTDETR SAM FastSAM NAS ASSETS checks download settings __version__ cfg data engine "
    "hub models nn solutions trackers utils",
    "models": "YOLO RTDETR SAM FastSAM NAS YOLOWorld yolo",
    "models.yolo": "YOLO detect segment pose obb classify world",
    "models.yolo.model": "YOLO",
    "models.yolo.detect.train": "DetectionTrainer",
    "models.sam": "SAM Predictor",
    "models.fastsam": "FastSAM FastSAMPredictor",
    "models.rtdetr": "RTDETR RTDETRTrainer",
    "models.nas": "NAS",
    "yolo.engine.model": "YOLO",
    "yolo.engine.results": "Results Boxes",
    "yolo.engine.predictor": "BasePredictor",
    "yolo.engine.trainer": "BaseTrainer",
    "yolo.engine.validator": "BaseValidator",
    "yolo.utils": "LOGGER ROOT ops",
    "yolo.utils.plotting": "Annotator colors save_one_box",
    "yolo.utils.checks": "check_imgsz check_requirements",
    "yolo.utils.ops": "non_max_suppression scale_boxes xyxy2xywh",
    "yolo.utils.torch_utils": "select_device",
    "yolo.utils.metrics": "bbox_iou",
    "yolo.utils.loss": "BboxLoss",
    "yolo.utils.tal": "TaskAlignedAssigner",
    "yolo.utils.files": "increment_path",
    "yolo.utils.downloads": "attempt_download_asset",
    "yolo.data": "YOLODataset",
    "yolo.cfg": "get_cfg",
    "yolo.v8": "detect segment pose classify",
    "yolo.v8.detect": "DetectionTrainer DetectionValidator DetectionPredictor",
    "yolo.v8.detect.predict": "DetectionPredictor",
    "tracker": "BYTETracker",
    "engine.model": "YOLO Model",
    "engine.results": "Results Boxes Masks Keypoints Probs OBB",
    "engine.trainer": "BaseTrainer",
    "engine.validator": "BaseValidator",
    "engine.predictor": "BasePredictor",
    "engine.exporter": "Exporter export_formats",
    "engine.tuner": "Tuner",
    "utils.metrics": "box_iou bbox_iou bbox_ioa mask_iou kpt_iou probiou batch_probiou ap_per_class compute_ap "
    "smooth smooth_bce OKS_SIGMA ConfusionMatrix DetMetrics",
    "data": "YOLODataset build_dataloader build_yolo_dataset load_inference_source",
    "data.dataset": "YOLODataset",
    "data.base": "BaseDataset",
    "data.build": "build_yolo_dataset build_dataloader InfiniteDataLoader load_inference_source YOLODataset",
    "data.augment": "LetterBox Compose RandomPerspective RandomHSV RandomFlip Mosaic MixUp CopyPaste Format "
    "Albumentations v8_transforms classify_transforms classify_augmentations",
    "data.utils": "check_det_dataset img2label_paths IMG_FORMATS VID_FORMATS verify_image_label polygon2mask "
    "check_cls_dataset exif_size autosplit",
    "data.converter": "convert_coco",
    "data.split": "autosplit",
    "data.annotator": "auto_annotate",
    "data.loaders": "LoadImagesAndVideos LoadStreams LoadPilAndNumpy LoadTensor LoadScreenshots SourceTypes "
    "autocast_list",
    "utils.ops": "xyxy2xywh xywh2xyxy xyxy2ltwh xywh2ltwh ltwh2xyxy ltwh2xywh xywhn2xyxy xyxy2xywhn xywhr2xyxyxyxy "
    "xyxyxyxy2xywhr segments2boxes resample_segments make_divisible clean_str scale_boxes scale_coords "
    "clip_boxes clip_coords scale_masks scale_image process_mask process_mask_native crop_mask masks2segments "
    "non_max_suppression Profile",
    "utils.nms": "non_max_suppression",
    "utils.torch_utils": "select_device model_info get_flops get_num_params get_num_gradients time_sync "
    "fuse_conv_and_bn intersect_dicts de_parallel unwrap_model is_parallel EarlyStopping ModelEMA init_seeds "
    "one_cycle copy_attr smart_inference_mode autocast strip_optimizer initialize_weights scale_img "
    "torch_distributed_zero_first profile profile_ops TORCH_1_9 TORCH_2_4 cuda_memory_usage",
    "utils.tal": "make_anchors dist2bbox bbox2dist dist2rbox TaskAlignedAssigner RotatedTaskAlignedAssigner",
    "utils.loss": "v8DetectionLoss BboxLoss DFLoss VarifocalLoss FocalLoss KeypointLoss v8SegmentationLoss "
    "v8PoseLoss v8ClassificationLoss v8OBBLoss E2EDetectLoss",
    "utils": "LOGGER ROOT ASSETS DEFAULT_CFG DEFAULT_CFG_DICT DEFAULT_CFG_KEYS DEFAULT_CFG_PATH SETTINGS RANK "
    "LOCAL_RANK NUM_THREADS MACOS LINUX WINDOWS IS_COLAB IS_JUPYTER ONLINE VERBOSE yaml_load yaml_save "
    "yaml_print YAML colorstr remove_colorstr emojis TQDM TryExcept Retry threaded ThreadingLocked plt_settings "
    "callbacks is_online is_colab is_dir_writeable url2file IterableSimpleNamespace DATASETS_DIR WEIGHTS_DIR "
    "RUNS_DIR",
    "utils.callbacks": "default_callbacks get_default_callbacks add_integration_callbacks",
    "utils.callbacks.wb": "callbacks",
    "utils.callbacks.tensorboard": "callbacks",
    "utils.checks": "check_imgsz check_requirements check_version check_file check_yaml check_suffix check_font "
    "check_python check_amp check_torchvision is_ascii print_args collect_system_info cuda_is_available "
    "cuda_device_count check_yolo parse_requirements",
    "utils.files": "increment_path get_latest_run file_size WorkingDirectory",
    "utils.downloads": "download safe_download attempt_download_asset is_url GITHUB_ASSETS_STEMS",
    "utils.patches": "imread imwrite imshow torch_load torch_save",
    "utils.plotting": "Annotator Colors colors save_one_box plot_results plot_labels plot_images output_to_target "
    "feature_visualization plot_tune_results plt_color_scatter",
    "utils.instance": "Instances Bboxes",
    "utils.autobatch": "autobatch check_train_batch_size",
    "utils.benchmarks": "benchmark",
    "utils.tuner": "run_ray_tune",
    "utils.dist": "",
    "utils.errors": "",
    "utils.triton": "TritonRemoteModel",
    "cfg": "get_cfg cfg2dict get_save_dir TASKS MODES TASK2DATA TASK2MODEL TASK2METRIC entrypoint smart_value "
    "check_dict_alignment SOLUTION_MAP",
    "nn": "DetectionModel SegmentationModel ClassificationModel BaseModel attempt_load_weights parse_model",
    "nn.tasks": "BaseModel DetectionModel SegmentationModel PoseModel OBBModel ClassificationModel parse_model "
    "yaml_model_load guess_model_task guess_model_scale torch_safe_load attempt_load_one_weight "
    "attempt_load_weights load_checkpoint Ensemble",
    "nn.autobackend": "AutoBackend check_class_names default_class_names",
    "nn.modules": "Conv C2f C3k2 A2C2f SPPF Detect Segment Pose OBB Classify Concat AIFI",
    "nn.modules.conv": "Conv Conv2 DWConv ConvTranspose GhostConv RepConv LightConv Focus CBAM Concat Index autopad",
    "nn.modules.block": "Bottleneck C1 C2 C2f C3 C3k C3k2 C3TR C3Ghost C2PSA PSA Attention SPPF SPP SCDown CIB "
    "ADown DFL Proto HGStem HGBlock RepC3 ResNetLayer AAttn ABlock A2C2f",
    "nn.modules.head": "Detect Segment Pose OBB Classify v10Detect RTDETRDecoder WorldDetect",
    "nn.modules.transformer": "AIFI TransformerBlock MLP LayerNorm2d",
    "trackers": "BYTETracker BOTSORT",
    "trackers.track": "on_predict_start on_predict_postprocess_end",
    "trackers.basetrack": "BaseTrack TrackState",
    "trackers.byte_tracker": "BYTETracker STrack",
    "trackers.bot_sort": "BOTSORT",
    "solutions": "AIGym Analytics DistanceCalculation Heatmap InstanceSegmentation Inference ObjectBlurrer "
    "ObjectCounter ObjectCropper ParkingManagement ParkingPtsSelection QueueManager RegionCounter SearchApp "
    "SecurityAlarm SpeedEstimator TrackZone VisionEye VisualAISearch",
    "solutions.object_counter": "ObjectCounter",
    "solutions.solutions": "BaseSolution",
    "hub": "login logout",
    **{
        f"models.yolo.{task}{part}": " ".join(f"{prefix}{kind}" for kind in ("Trainer", "Validator", "Predictor"))
        for task, prefix in TASKS.items()
        for part in ("", ".val", ".predict")
    },
}


@pytest.mark.parametrize("prefix", ["ultralytics", "bitfalcon_plugin.dropin"])
def test_every_name_is_there(as_it_was, prefix):
    install(quiet=True)
    missing = []
    for place, names in NAMES.items():
        full = f"{prefix}.{place}".rstrip(".")
        try:
            module = importlib.import_module(full)
        except ImportError:
            missing.append(full)
            continue
        missing += [f"{full}.{name}" for name in names.split() if not hasattr(module, name)]
    assert missing == []
