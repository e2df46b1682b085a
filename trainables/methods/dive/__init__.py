"""DiVE: distilling virtual examples."""
