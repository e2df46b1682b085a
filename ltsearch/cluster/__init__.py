"""Where a sweep runs and how it gets there."""
