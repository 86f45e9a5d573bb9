"""Pictures: labels drawn on images, charts, and accuracy against a price."""
