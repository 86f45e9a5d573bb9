import numpy as np
from ultralytics import YOLO

model = YOLO("best.pt")
metrics = model.val(data="data.yaml", imgsz=64, conf=0.25, plots=False, verbose=False)

matrix = metrics.confusion_matrix.matrix  # rows: predicted, columns: true, last: background
tp = np.diag(matrix)[:-1]
fp = matrix.sum(1)[:-1] - tp
fn = matrix.sum(0)[:-1] - tp
for i, name in model.names.items():
    print(f"{name}: TP {tp[i]:.0f} FP {fp[i]:.0f} FN {fn[i]:.0f}")

curves = dict(zip(metrics.curves, metrics.curves_results))
for title, (x, y, xlabel, ylabel) in curves.items():
    print(title, np.shape(x), np.shape(y), xlabel, ylabel)
f1_curve = np.mean(curves["F1-Confidence(B)"][1], axis=0)
best_conf = float(curves["F1-Confidence(B)"][0][int(f1_curve.argmax())])
print("best confidence", best_conf)
