import io

import numpy as np
from fastapi import FastAPI, File, HTTPException, UploadFile
from fastapi.testclient import TestClient
from PIL import Image
from ultralytics import YOLO

app = FastAPI(title="Object detection")
model = YOLO("best.pt")


@app.post("/predict")
def predict(image: bytes = File(...), threshold: float = 0.25):
    try:
        picture = Image.open(io.BytesIO(image)).convert("RGB")
    except Exception as error:
        raise HTTPException(status_code=415, detail="not an image") from error
    result = model(np.asarray(picture)[:, :, ::-1], conf=threshold, verbose=False)[0]
    return {
        "count": len(result),
        "shape": result.orig_shape,
        "detections": result.summary(normalize=True),
        "speed": {k: float(v) for k, v in result.speed.items()},
    }


@app.post("/annotate")
async def annotate(file: UploadFile):
    picture = Image.open(io.BytesIO(await file.read()))
    return {"pixels": model(picture, verbose=False)[0].plot().shape}


if __name__ == "__main__":
    client = TestClient(app)
    with open("image.jpg", "rb") as f:
        content = f.read()
    answer = client.post("/predict", files={"image": content}).json()
    strict = client.post("/predict?threshold=0.999", files={"image": content}).json()
    annotated = client.post("/annotate", files={"file": ("a.jpg", content)}).json()
    wrong = client.post("/predict", files={"image": b"text"}).status_code
