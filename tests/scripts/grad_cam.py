"""Class activation map of one detection by hooks on a layer of the network."""

import numpy as np
import torch
from PIL import Image
from ultralytics import YOLO


class GradCAM:
    def __init__(self, model, layer):
        self.model = model
        self.activations = self.gradients = None
        layer.register_forward_hook(self.keep_activation)

    def keep_activation(self, module, inputs, output):
        self.activations = output
        output.register_hook(lambda grad: setattr(self, "gradients", grad))

    def __call__(self, x, class_id):
        out = self.model(x)
        preds = out[0] if isinstance(out, (list, tuple)) else out
        scores = preds[0, 4:]  # (nc, anchors)
        score = scores[class_id].max()
        self.model.zero_grad()
        score.backward()
        weights = self.gradients.mean(dim=(2, 3), keepdim=True)
        cam = torch.relu((weights * self.activations).sum(1))[0]
        return (cam / (cam.max() + 1e-9)).detach().numpy(), float(score)


yolo = YOLO("best.pt")
net = yolo.model
net.eval()
for p in net.parameters():
    p.requires_grad_(True)

image = Image.open("image.jpg").resize((64, 48))
canvas = np.full((64, 64, 3), 114, np.uint8)
canvas[8:56] = np.asarray(image)
x = torch.from_numpy(canvas).permute(2, 0, 1)[None].float() / 255

cam = GradCAM(net, net.model[-3])
heat, score = cam(x, class_id=0)
row, column = np.unravel_index(heat.argmax(), heat.shape)
print(heat.shape, score, (row, column))
