from threading import Thread

from ultralytics import YOLO

results = {}


def thread_safe_predict(model_path, image_path):
    """Predict on an image using a new YOLO model instance in a thread-safe manner."""
    local_model = YOLO(model_path)
    results[image_path] = local_model.predict(image_path)


# Starting threads that each have their own model instance
threads = [Thread(target=thread_safe_predict, args=("best.pt", f"photos/{i}.jpg")) for i in range(3)]
for t in threads:
    t.start()
for t in threads:
    t.join()
for path in sorted(results):
    print(path, len(results[path][0]))
