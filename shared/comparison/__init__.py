"""Which arm of an experiment is better, and by how much."""
