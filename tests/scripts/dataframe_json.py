import json

from ultralytics import YOLO

model = YOLO("best.pt")
results = model("image.jpg", verbose=False)

rows = json.loads(results[0].tojson())
with open("detections.json", "w") as f:
    json.dump({"image": results[0].path, "objects": rows}, f, indent=2)

df = results[0].to_df()
df["area"] = [(b["x2"] - b["x1"]) * (b["y2"] - b["y1"]) for b in df["box"]]
print(df[["name", "confidence", "area"]].sort_values("area", ascending=False))
print(df["name"].value_counts().to_dict())
largest = df.loc[df["area"].idxmax(), "name"]
