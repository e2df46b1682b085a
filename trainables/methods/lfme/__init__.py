"""Learning from multiple experts."""
