"""One training run: command line, inputs, loop, stage 1, report."""
