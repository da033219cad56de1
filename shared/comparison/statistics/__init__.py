"""Paired differences over problems and seeds: intervals, tests, verdicts, power."""
