from ultralytics.models.yolo.detect import DetectionPredictor, DetectionTrainer, DetectionValidator


def log_losses(trainer):
    loss_items = trainer.loss_items
    print(f"epoch {trainer.epoch + 1}/{trainer.epochs}", loss_items)
    epochs_seen.append(trainer.epoch)


epochs_seen = []
args = dict(
    model="best.pt", data="data.yaml", epochs=2, imgsz=64, batch=8, lr0=1e-5, optimizer="SGD", warmup_epochs=0,
    workers=0, plots=False, project="runs/detect", name="overrides", fraction=0.5,
)  # fmt: skip
trainer = DetectionTrainer(overrides=args)
trainer.add_callback("on_train_epoch_end", log_losses)
trainer.train()
trained_model = trainer.best

validator = DetectionValidator(args=dict(model=str(trained_model), data="data.yaml", imgsz=64, plots=False, workers=0))
stats = validator()

predictor = DetectionPredictor(overrides=dict(model=str(trained_model), source="image.jpg", imgsz=64, save=False))
results = predictor()
print(stats, len(results[0]))
