"""Parametric contrastive learning."""
