"""Run the exported ONNX file with onnxruntime and decode its output in numpy alone."""

import numpy as np
import onnxruntime as ort
from PIL import Image
from ultralytics import YOLO

model = YOLO("best.pt")
path = model.export(format="onnx", imgsz=64, opset=17, simplify=True)

session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
input_name = session.get_inputs()[0].name
input_shape = session.get_inputs()[0].shape
names = eval(session.get_modelmeta().custom_metadata_map["names"])

image = Image.open("image.jpg").convert("RGB")
width, height = image.size
resized = np.asarray(image.resize((64, 64), Image.BILINEAR), np.float32) / 255.0
blob = resized.transpose(2, 0, 1)[None]

output = session.run(None, {input_name: blob})[0]
predictions = np.squeeze(output).T
scores = predictions[:, 4:].max(axis=1)
predictions, scores = predictions[scores > 0.3], scores[scores > 0.3]
class_ids = predictions[:, 4:].argmax(axis=1)
boxes = predictions[:, :4] * np.array([width / 64, height / 64, width / 64, height / 64])
boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


def iou(box, others):
    lt = np.maximum(box[:2], others[:, :2])
    rb = np.minimum(box[2:], others[:, 2:])
    inter = np.prod(np.clip(rb - lt, 0, None), axis=1)
    area = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - inter
    return inter / area


def nms(boxes, scores, threshold):
    order = scores.argsort()[::-1]
    keep = []
    while order.size:
        keep.append(order[0])
        order = order[1:][iou(boxes[order[0]], boxes[order[1:]]) < threshold]
    return keep


kept = nms(boxes, scores, 0.5)
found = sorted((names[int(class_ids[i])], [round(float(v)) for v in boxes[i]]) for i in kept)
print(found)
