"""Exported models, opened by their runtimes; one file a runtime."""
