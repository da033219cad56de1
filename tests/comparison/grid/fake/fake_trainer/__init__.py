"""A trainer and an evaluation that only write their files, for tests of the grid."""
