from ultralytics import YOLO

# Load a model
model = YOLO("best.pt")  # load a custom model

# Validate the model
metrics = model.val(data="data.yaml", imgsz=64, batch=4, conf=0.25, iou=0.6, plots=False)
print(metrics.box.map)  # map50-95
print(metrics.box.map50)  # map50
print(metrics.box.map75)  # map75
print(metrics.box.maps)  # a list contains map50-95 of each category

precision, recall, map50, map5095 = metrics.mean_results()
for i, c in enumerate(metrics.ap_class_index):
    p, r, ap50, ap = metrics.class_result(i)
    print(f"{metrics.names[c]:>10} {p:.3f} {r:.3f} {ap50:.3f} {ap:.3f}")

results_dict = metrics.results_dict
f1 = 2 * precision * recall / (precision + recall)
print(dict(results_dict), f1, metrics.box.f1.mean(), metrics.fitness, metrics.speed["inference"])
