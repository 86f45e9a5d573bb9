from ultralytics import YOLO

log = []
history = []


def on_train_start(trainer):
    log.append(("start", trainer.epochs, trainer.args.imgsz))


def on_train_epoch_end(trainer):
    curr_epoch = trainer.epoch + 1
    log.append((curr_epoch, trainer.lr, trainer.label_loss_items(trainer.tloss, prefix="train")))


def on_fit_epoch_end(trainer):
    history.append(trainer.metrics.get("metrics/mAP50(B)", 0))
    print(f"Epoch {trainer.epoch}: fitness {trainer.fitness}")


def on_model_save(trainer):
    log.append(("saved", trainer.best.name, trainer.save_dir.name))


def on_predict_batch_end(predictor):
    paths, im0s, _ = predictor.batch
    im0s = im0s if isinstance(im0s, list) else [im0s]
    predictor.results = zip(predictor.results, im0s)


model = YOLO("best.pt")
model.add_callback("on_train_start", on_train_start)
model.add_callback("on_train_epoch_end", on_train_epoch_end)
model.add_callback("on_fit_epoch_end", on_fit_epoch_end)
model.add_callback("on_model_save", on_model_save)
model.train(data="data.yaml", epochs=2, imgsz=64, batch=8, fraction=0.25, name="with_callbacks", plots=False, workers=0)

model.add_callback("on_predict_batch_end", on_predict_batch_end)
pairs = [(len(result), frame.shape) for result, frame in model.predict("photos", stream=True, verbose=False)]
