"""What can be said of numbers, without a table: summaries, differences and their tests."""
