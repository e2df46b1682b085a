"""Logit adjustment after training."""
