"""The model card of an exported folder: what its model was made from, and how good."""
