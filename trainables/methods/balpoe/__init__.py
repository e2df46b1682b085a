"""Balanced product of experts."""
