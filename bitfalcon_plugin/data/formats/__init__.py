"""Label and dataset files, one reader a format."""
