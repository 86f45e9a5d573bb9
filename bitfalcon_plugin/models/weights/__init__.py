"""Weights on disk: our checkpoints, other makers' files, packed ternary weights."""
