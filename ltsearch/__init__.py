"""What decides and runs: the sweep spec, the plan, search, early stopping, trials, tracking and the command line."""

__version__ = "0.1.0"
