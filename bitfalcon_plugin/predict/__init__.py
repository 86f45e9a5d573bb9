"""The verb predict: from sources to results."""
