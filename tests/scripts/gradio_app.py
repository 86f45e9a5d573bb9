import gradio as gr
from ultralytics import YOLO

model = YOLO("best.pt")


def predict_image(img, conf_threshold, iou_threshold):
    """Predicts objects in an image using a YOLO model with adjustable confidence and IOU thresholds."""
    results = model.predict(
        source=img, conf=conf_threshold, iou=iou_threshold, show_labels=True, show_conf=True, imgsz=64
    )
    for r in results:
        im_array = r.plot(pil=True)
    return im_array


iface = gr.Interface(
    fn=predict_image,
    inputs=[gr.Image(type="pil", label="Upload Image"), gr.Slider(0, 1, value=0.25), gr.Slider(0, 1, value=0.45)],
    outputs=gr.Image(type="pil", label="Result"),
    title="YOLO",
)
iface.launch()
