"""Bilateral-branch network."""
