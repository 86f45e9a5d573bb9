"""The classes of models. YOLO is loaded at its first use; the others are refused when they are called (names.py)."""
