import logging
import os

os.environ["YOLO_VERBOSE"] = "False"
from ultralytics import YOLO  # noqa: E402
from ultralytics.utils import LOGGER, ROOT, yaml_load  # noqa: E402
from ultralytics.utils.checks import check_requirements  # noqa: E402

LOGGER.setLevel(logging.ERROR)
logging.getLogger("ultralytics").setLevel(logging.ERROR)
names = yaml_load("data.yaml")["names"]
check_requirements("torch>=1.8")
model = YOLO("best.pt", verbose=False)
count = sum(len(r) for r in model.predict("photos", stream=True, verbose=False))
print(count, names, ROOT.name)
