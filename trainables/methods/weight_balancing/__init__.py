"""Weight balancing."""
