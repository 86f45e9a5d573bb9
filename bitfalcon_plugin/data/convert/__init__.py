"""Datasets of other formats, and of large images: read, cut into tiles, written as a dataset for training."""
