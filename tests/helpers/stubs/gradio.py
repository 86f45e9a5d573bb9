"""Stands in for Gradio: a visitor who sends image.jpg with the controls as they are."""

from __future__ import annotations

from PIL import Image as Pictures

LOG: list = []


class Image:
    def __init__(self, type: str, label: str):
        pass

    def value(self):
        return Pictures.open("image.jpg")


class Slider:
    def __init__(self, low: float, high: float, value: float):
        self.value = lambda: value


class Interface:
    def __init__(self, fn, inputs, outputs, title: str):
        self.fn, self.inputs = fn, inputs

    def launch(self) -> None:
        LOG.append(self.fn(*(item.value() for item in self.inputs)))
