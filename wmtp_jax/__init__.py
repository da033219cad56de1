"""The JAX trainer: pure functions, one jitted step, CPU, GPU and many devices."""

NAME = "wmtp_jax"  # of its runs and exports, and for messages
