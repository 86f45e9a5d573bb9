import base64
import io

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.testclient import TestClient
from PIL import Image
from pydantic import BaseModel
from ultralytics import YOLO

app = FastAPI(title="Object detection")
model = YOLO("best.pt")


class Task(BaseModel):
    image: str  # base64
    threshold: float = 0.25


@app.post("/predict")
def predict(task: Task):
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(task.image))).convert("RGB")
    except Exception as error:
        raise HTTPException(status_code=415, detail="not an image") from error
    result = model(np.asarray(picture)[:, :, ::-1], conf=task.threshold, verbose=False)[0]
    return {
        "count": len(result),
        "shape": result.orig_shape,
        "detections": result.summary(normalize=True),
        "speed": {k: float(v) for k, v in result.speed.items()},
    }


@app.post("/annotate")
async def annotate(request: Request):
    picture = Image.open(io.BytesIO(await request.body()))
    return {"pixels": model(picture, verbose=False)[0].plot().shape}


if __name__ == "__main__":
    client = TestClient(app)
    with open("image.jpg", "rb") as f:
        content = f.read()
    text = base64.b64encode(content).decode()
    answer = client.post("/predict", json={"image": text}).json()
    strict = client.post("/predict", json={"image": text, "threshold": 0.999}).json()
    annotated = client.post("/annotate", content=content).json()
    wrong = client.post("/predict", json={"image": "text"}).status_code
