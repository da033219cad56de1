"""Running model-written Python behind walls, judging it from outside, and pass@k."""
