"""Nearest class mean."""
