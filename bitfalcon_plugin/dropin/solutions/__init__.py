"""Counting, heat maps and speeds of tracked objects, under the module names of the wider package."""
