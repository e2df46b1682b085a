"""What is kept: records, cells and their ids, locks, retries, where numbers come from."""
