"""Loader workers and image caches."""
