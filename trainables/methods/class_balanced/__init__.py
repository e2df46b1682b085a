"""Class-balanced losses."""
