"""Config: fields and ranges, YAML layers, presets, names of the original system."""
