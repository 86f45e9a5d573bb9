"""Datasets, loaders and transforms, under the module names of the wider package."""
