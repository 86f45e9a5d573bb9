"""Layers of the graph language."""
