"""What a reader opens: one record of a report, written as ``report.md`` with files beside it and as one ``report.html``."""
