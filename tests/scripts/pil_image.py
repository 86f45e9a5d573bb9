from PIL import Image, ImageDraw
from ultralytics import YOLO

model = YOLO("best.pt")
im1 = Image.open("image.jpg")
results = model.predict(source=im1, save=False, stream=False)

draw = ImageDraw.Draw(im1)
for box in results[0].boxes:
    class_id = results[0].names[box.cls[0].item()]
    cords = box.xyxy[0].tolist()
    cords = [round(x) for x in cords]
    conf = round(box.conf[0].item(), 2)
    draw.rectangle(cords, outline="yellow", width=1)
    print("Object type:", class_id)
    print("Coordinates:", cords)
    print("Probability:", conf)
    print("---")
im1.save("drawn.png")

# Visualize the results
for r in results:
    im_array = r.plot()  # plot a BGR numpy array of predictions
    im = Image.fromarray(im_array[..., ::-1])  # RGB PIL image
    im.save("results.jpg")
