"""One-way label smoothing between two classes (DiVE, Fig. 3)."""
