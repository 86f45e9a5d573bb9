from sahi import AutoDetectionModel
from sahi.predict import get_prediction, get_sliced_prediction

detection_model = AutoDetectionModel.from_pretrained(
    model_type="ultralytics", model_path="best.pt", confidence_threshold=0.4, device="cpu", image_size=64
)

result = get_sliced_prediction(
    "large.jpg", detection_model, slice_height=48, slice_width=64, overlap_height_ratio=0, overlap_width_ratio=0,
    perform_standard_pred=False,
)  # fmt: skip
for obj in result.object_prediction_list:
    print(obj.category.name, round(obj.score.value, 2), obj.bbox.to_xyxy())

whole = get_prediction("image.jpg", detection_model)
annotations = result.to_coco_annotations()
result.export_visuals(export_dir="sahi_out/")
