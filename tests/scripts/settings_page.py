import os

from ultralytics import YOLO, settings

# View all settings
print(settings)
before = settings["runs_dir"]

# Update settings
settings.update({"runs_dir": os.path.abspath("my_runs"), "wandb": False})
settings["datasets_dir"] = os.getcwd()

try:
    settings.update({"verbose": False})
except (KeyError, TypeError) as error:
    print(f"no such setting: {error}")

model = YOLO("best.pt")
model.predict("image.jpg", save=True, imgsz=64)
where = model.predictor.save_dir

# Reset settings to default values
settings.reset()
after = settings["runs_dir"]
