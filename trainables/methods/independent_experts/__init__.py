"""Independent experts and their average."""
