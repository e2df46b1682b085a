"""NCL++, nested collaborative learning."""
