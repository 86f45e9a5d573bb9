"""Modules of graphs, under the module names of the wider package."""
