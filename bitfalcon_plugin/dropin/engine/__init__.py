"""Model, results, trainer, validator and predictor, under the module names of the wider package."""
