"""One training run: command line, inputs, loop, report."""
