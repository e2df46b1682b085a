"""Published numbers and the recipes that made them."""
