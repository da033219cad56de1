"""Arms side by side: the grid of runs, statistics over it, the report."""
