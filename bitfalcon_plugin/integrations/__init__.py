"""Adapters for packages that want a class of their own, and the loggers of train/loggers.py.

Each module needs its package and is imported by name only.
"""
