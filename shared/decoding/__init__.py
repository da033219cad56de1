"""Decoding without a model: requests, rules of sampling, text, drafts, acceptance."""
