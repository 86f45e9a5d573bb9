from ultralytics import YOLO


def freeze_layer(trainer):
    model = trainer.model
    num_freeze = 4
    print(f"Freezing {num_freeze} layers")
    freeze = [f"model.{x}." for x in range(num_freeze)]  # layers to freeze
    for k, v in model.named_parameters():
        v.requires_grad = True  # train all layers
        if any(x in k for x in freeze):
            print(f"freezing {k}")
            v.requires_grad = False
    print(f"{num_freeze} layers are freezed.")


model = YOLO("best.pt")
before = {k: v.clone() for k, v in model.model.state_dict().items()}
model.add_callback("on_train_start", freeze_layer)
model.train(data="data.yaml", epochs=3, imgsz=64, batch=8, workers=0, plots=False, name="frozen")
after = model.model.state_dict()
weights = [k for k in before if k.endswith(("conv.weight", ".bias"))]
changed = {k.split(".")[1] for k in weights if not (before[k].float() == after[k].float()).all()}
print(sorted(changed))
