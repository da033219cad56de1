"""The JAX trainer: pure functions, one jitted step, CPU, GPU and many devices."""

from wmtp_jax import pytrees as pytrees
