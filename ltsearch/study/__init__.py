"""What is asked: a study's YAML and its rules."""
