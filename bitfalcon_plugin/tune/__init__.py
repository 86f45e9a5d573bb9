"""The search for hyper-parameters, by Optuna."""
