"""From a study to cells: rows and seeds, the data they need, what fits where, what it costs."""
