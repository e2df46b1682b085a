"""Learnable weight scaling."""
