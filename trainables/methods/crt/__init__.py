"""Classifier re-training."""
