"""The verb val: from a model and a dataset to metrics."""
