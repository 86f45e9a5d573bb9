import cv2
from ultralytics import solutions

cap = cv2.VideoCapture("clip.mp4")
heatmap = solutions.Heatmap(show=False, model="best.pt", colormap=cv2.COLORMAP_PARULA, verbose=False)
regions = solutions.RegionCounter(
    show=False, region={"upper": [(0, 0), (64, 0), (64, 24), (0, 24)], "lower": [(0, 24), (64, 24), (64, 48), (0, 48)]},
    model="best.pt", verbose=False,
)  # fmt: skip
counts = []
while cap.isOpened():
    success, im0 = cap.read()
    if not success:
        break
    warm = heatmap(im0.copy()).plot_im
    counts.append(dict(regions(im0.copy()).region_counts))
cap.release()
print(warm.shape, counts[-1])
