"""What reads the logged runs: tidy frames, statistics, tables, figures and the report.

Every table and figure is ``build(…) -> frozen dataclass`` and ``render(dataclass)``; tests look at the data.
Nothing here imports torch, Ray or Optuna, and only ``analysis.read.store`` imports MLflow.
"""
