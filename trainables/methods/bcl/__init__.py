"""Balanced contrastive learning."""
