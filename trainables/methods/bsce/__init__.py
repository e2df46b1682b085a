"""Balanced softmax cross-entropy."""
