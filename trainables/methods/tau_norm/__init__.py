"""τ-normalised classifiers."""
