"""SADE, without its test-time part."""
