"""Data: examples, tokenised documents, packed rows, batches, contamination."""
