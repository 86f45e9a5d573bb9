"""The verbs benchmark, sizes and selftest."""
