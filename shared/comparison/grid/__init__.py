"""The runs of a comparison: which there are, in what order, and running them."""
