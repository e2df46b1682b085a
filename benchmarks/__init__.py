"""Benchmarks: ``python -m benchmarks.run``. What they measure and what came out is in ``docs/benchmarks.md``."""
