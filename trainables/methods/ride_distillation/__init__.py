"""RIDE distilled from a larger RIDE."""
