"""Optuna: the study, samplers, early stopping, the journal."""
