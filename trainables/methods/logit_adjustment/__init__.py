"""Logit adjustment, trained."""
