"""Tables as records, what fills them, and how they are written."""
