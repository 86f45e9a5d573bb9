"""Augmentation of batches on the training device."""
