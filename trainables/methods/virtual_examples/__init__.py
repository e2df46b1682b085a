"""The virtual-example distribution of a teacher (DiVE, section 3)."""
