"""LDAM, and LDAM-DRW."""
