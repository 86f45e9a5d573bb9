from ultralytics import YOLO


def stop_early(trainer):
    if trainer.epoch == 0:
        raise KeyboardInterrupt


model = YOLO("best.pt")
model.add_callback("on_fit_epoch_end", stop_early)
options = dict(imgsz=64, batch=8, workers=0, plots=False, fraction=0.25, project="runs/detect", name="unfinished")
try:
    model.train(data="data.yaml", epochs=3, save_period=1, **options)
except KeyboardInterrupt:
    print("interrupted")

# Resume training
model = YOLO("runs/detect/unfinished/weights/last.pt")
epochs = []
model.add_callback("on_train_epoch_start", lambda trainer: epochs.append(trainer.epoch))
results = model.train(resume=True)
print(epochs, results.box.map50)
