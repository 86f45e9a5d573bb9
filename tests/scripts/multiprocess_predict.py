"""Predict in another process, which gets the model from this one."""

import glob
import multiprocessing as mp

from ultralytics import YOLO


def work(model, path):
    result = model(path, verbose=False)[0]
    return path, sorted(result.names[int(c)] for c in result.boxes.cls)


if __name__ == "__main__":
    mp.set_start_method("spawn")
    detector = YOLO("best.pt")
    images = sorted(glob.glob("photos/*.jpg"))
    with mp.Pool(1) as pool:
        for image, names in pool.starmap(work, [(detector, path) for path in images]):
            print(image, " ".join(names))
