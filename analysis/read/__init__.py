"""What a report is made of, read: runs of the tracking server, studies, which runs may stand side by side."""
