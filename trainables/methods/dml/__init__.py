"""Deep mutual learning."""
