"""What makes a trained network fast: folding, fused convolutions, precision, compilation."""
