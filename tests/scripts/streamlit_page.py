import streamlit as st
from PIL import Image
from ultralytics import YOLO

st.set_page_config(page_title="Object Detection", layout="wide")
st.title("Object Detection")
confidence = float(st.sidebar.slider("Select Model Confidence", 25, 100, 40)) / 100


@st.cache_resource
def load_model(path):
    return YOLO(path)


try:
    model = load_model("best.pt")
except Exception as ex:
    st.error("Unable to load model. Check the specified path")
    st.error(ex)

source_img = st.sidebar.file_uploader("Choose an image...", type=("jpg", "jpeg", "png"))
if source_img is not None:
    uploaded_image = Image.open(source_img)
    st.image(uploaded_image, caption="Uploaded Image")
    if st.sidebar.button("Detect Objects"):
        res = model.predict(uploaded_image, conf=confidence)
        boxes = res[0].boxes
        res_plotted = res[0].plot()[:, :, ::-1]
        st.image(res_plotted, caption="Detected Image")
        with st.expander("Detection Results"):
            for box in boxes:
                st.write(box.data)
