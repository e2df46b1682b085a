"""MLflow: the writer, and the peculiarities of its servers."""
