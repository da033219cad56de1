"""The critic's first stage: frozen states, the linear fit, the head trained on them."""
