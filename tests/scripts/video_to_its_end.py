"""Reads a video without looking whether there was a frame, as many first scripts do."""

import cv2
from ultralytics import YOLO

model = YOLO("best.pt", "v8")
cap = cv2.VideoCapture("clip.mp4")
counts = []

while True:
    ret, frame = cap.read()
    detect_params = model.predict(source=frame, conf=0.45, save=False)
    if not ret:
        print("Can't receive frame (stream end?). Exiting ...")
        break
    DP = detect_params[0].numpy()
    counts.append(len(DP))
    if len(DP) != 0:
        for i in range(len(detect_params[0])):
            box = detect_params[0].boxes[i]
            clsID = box.cls.numpy()[0]
            conf = box.conf.numpy()[0]
            bb = box.xyxy.numpy()[0]
            cv2.rectangle(frame, (int(bb[0]), int(bb[1])), (int(bb[2]), int(bb[3])), (255, 0, 0), 1)
            cv2.putText(
                frame,
                model.names[int(clsID)] + " " + str(round(float(conf), 3)) + "%",
                (int(bb[0]), int(bb[1]) - 10),
                cv2.FONT_HERSHEY_COMPLEX,
                1,
                (255, 255, 255),
                2,
            )
cap.release()
