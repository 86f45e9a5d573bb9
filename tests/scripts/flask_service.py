import io

from flask import Flask, jsonify, request
from PIL import Image
from ultralytics import YOLO

app = Flask(__name__)
model = YOLO("best.pt")


@app.route("/detect", methods=["POST"])
def detect():
    if "image_file" not in request.files:
        return jsonify({"error": "no file"}), 400
    buf = request.files["image_file"]
    boxes = detect_objects_on_image(Image.open(io.BytesIO(buf.read())))
    return jsonify(boxes)


def detect_objects_on_image(image):
    results = model.predict(image)
    result = results[0]
    output = []
    for box in result.boxes:
        x1, y1, x2, y2 = (round(x) for x in box.xyxy[0].tolist())
        class_id = box.cls[0].item()
        prob = round(box.conf[0].item(), 2)
        output.append([x1, y1, x2, y2, result.names[class_id], prob])
    return output


if __name__ == "__main__":
    client = app.test_client()
    with open("image.jpg", "rb") as f:
        reply = client.post("/detect", data={"image_file": (f, "image.jpg")})
    answer = reply.get_json()
    missing = client.post("/detect").status_code
