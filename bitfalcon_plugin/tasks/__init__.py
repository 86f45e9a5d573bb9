"""What a task is: labels, loss, decoding and metrics."""
