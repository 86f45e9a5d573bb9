"""Training: assignment, loss, optimisation and the loop."""
