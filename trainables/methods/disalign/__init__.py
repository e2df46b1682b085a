"""DisAlign."""
