"""Adapters for packages that want a class of their own. Each module needs its package and is imported by name only."""
