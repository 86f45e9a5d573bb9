"""Trainers, validators and predictors of each task, under the module names of the wider package."""
