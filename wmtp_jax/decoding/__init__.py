"""Decoding with a model: many rows of text at a time, drafted where that pays."""
