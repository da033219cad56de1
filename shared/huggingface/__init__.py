"""Hugging Face folders: config.json, tensors, names, the parameter tree."""
