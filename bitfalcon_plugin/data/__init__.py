"""Datasets: files checked into samples, samples decoded and augmented into batches."""
