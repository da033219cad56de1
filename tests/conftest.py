"""JAX flags and offline environment for every test, set before JAX starts."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="session", autouse=True)
def jax_flags(tmp_path_factory):
    """Implicit rank or dtype promotion in our code is an error."""
    import jax

    jax.config.update("jax_numpy_rank_promotion", "raise")
