import cv2
from ultralytics import solutions

cap = cv2.VideoCapture("clip.mp4")
assert cap.isOpened(), "Error reading video file"

region_points = [(32, 0), (32, 48)]  # line counting

# Init ObjectCounter
counter = solutions.ObjectCounter(show=False, region=region_points, model="best.pt", line_width=1, verbose=False)

# Process video
while cap.isOpened():
    success, im0 = cap.read()
    if not success:
        print("Video frame is empty or processing is complete.")
        break
    results = counter(im0)

cap.release()
print(results.in_count, results.out_count, results.classwise_count, results.plot_im.shape)
