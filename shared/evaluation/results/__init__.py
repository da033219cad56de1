"""What was found of each problem, and all that is computed from it."""
