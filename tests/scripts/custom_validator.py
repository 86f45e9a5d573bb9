from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import ops


class CountingValidator(DetectionValidator):
    """Counts predictions of each class beside the usual metrics."""

    def init_metrics(self, model):
        super().init_metrics(model)
        self.counts = dict.fromkeys(self.names.values(), 0)

    def postprocess(self, preds):
        preds = ops.non_max_suppression(
            preds,
            self.args.conf,
            self.args.iou,
            multi_label=True,
            agnostic=self.args.single_cls,
            max_det=self.args.max_det,
        )
        CountingValidator.images = getattr(CountingValidator, "images", 0) + len(preds)
        return preds

    def finalize_metrics(self, *args, **kwargs):
        super().finalize_metrics(*args, **kwargs)
        self.metrics.speed = self.speed
        self.metrics.confusion_matrix = self.confusion_matrix


model = YOLO("best.pt")
metrics = model.val(validator=CountingValidator, data="data.yaml", imgsz=64, batch=4, plots=False, workers=0)
print(metrics.box.map50, CountingValidator.images)
