"""The driver: what is outstanding, the queue, Tune's adapters, trials, worker groups."""
