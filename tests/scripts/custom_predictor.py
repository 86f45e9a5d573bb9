import torch
from ultralytics import YOLO
from ultralytics.engine.results import Results
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.utils import ops


class BigObjects(DetectionPredictor):
    """Keeps the detections larger than a share of the image."""

    share = 0.1

    def postprocess(self, preds, img, orig_imgs, **kwargs):
        preds = ops.non_max_suppression(
            preds, self.args.conf, self.args.iou, agnostic=self.args.agnostic_nms, max_det=self.args.max_det
        )
        if not isinstance(orig_imgs, list):
            orig_imgs = ops.convert_torch2numpy_batch(orig_imgs)
        results = []
        for i, pred in enumerate(preds):
            orig_img = orig_imgs[i]
            pred[:, :4] = ops.scale_boxes(img.shape[2:], pred[:, :4], orig_img.shape)
            area = (pred[:, 2] - pred[:, 0]) * (pred[:, 3] - pred[:, 1])
            pred = pred[area > self.share * orig_img.shape[0] * orig_img.shape[1]]
            results.append(Results(orig_img, path=self.batch[0][i], names=self.model.names, boxes=pred))
        return results


model = YOLO("best.pt")
everything = YOLO("best.pt").predict("image.jpg", imgsz=64, verbose=False)[0]
big = model.predict("image.jpg", predictor=BigObjects, imgsz=64, verbose=False)[0]
with torch.no_grad():
    print(len(everything), len(big), big.boxes.xywh[:, 2:].prod(1) / (64 * 48))
