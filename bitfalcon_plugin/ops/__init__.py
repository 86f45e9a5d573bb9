"""Arithmetic on tensors of boxes, polygons and images. Nothing here knows a model or a dataset."""
