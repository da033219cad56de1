"""JAX flags and offline environment for every test, set before JAX starts.

Compilation is most of the time of these tests: XLA optimises little, and what one test
or process has compiled the others find in a cache that lives as long as the session.
"""

import os
import tempfile
from importlib.util import find_spec

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def pytest_configure(config):
    # Workers of pytest-xdist start from the main process, and so share its folder.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        config.cache_of_jax = tempfile.TemporaryDirectory(prefix="jax-cache-")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = config.cache_of_jax.name


def pytest_unconfigure(config):
    if hasattr(config, "cache_of_jax"):
        config.cache_of_jax.cleanup()


def pytest_terminal_summary(terminalreporter):
    """The largest differences that the parity tests have seen, by what was compared."""
    worst: dict[str, dict[str, float]] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, seen in report.user_properties:
            if report.when == "call" and name.startswith("parity "):
                of = worst.setdefault(name, {})
                of.update({k: max(x, of.get(k, 0.0)) for k, x in seen.items()})
    if worst:
        terminalreporter.section("largest differences between the backends")
    for name, of in sorted(worst.items()):
        shown = "  ".join(f"{what} {x:.1e}" for what, x in of.items())
        terminalreporter.write_line(f"{name}: {shown}")


@pytest.fixture(scope="session", autouse=True)
def jax_flags():
    """Implicit rank promotion in our code is an error."""
    if find_spec("jax") is None:  # where the torch trainer is alone
        return
    import jax

    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def ready_for_mps(request):
    """Every test of the torch trainer fails on what Apple's GPU could not run."""
    left_out = map(request.node.get_closest_marker, ("float64", "unaudited"))
    if any(left_out) or not tests_torch_trainer(request.node):
        yield
        return
    from tests.mps_audit import audited

    with audited():
        yield


def tests_torch_trainer(test) -> bool:
    """Whether the test's file has imported something of the trainer, or its parity."""
    module = test.getparent(pytest.Module)
    names = vars(module.obj).values() if module else ()
    origins = (getattr(x, "__module__", getattr(x, "__name__", "")) for x in names)
    return any(str(x).startswith(("wmtp_torch_mps", "tests.parity")) for x in origins)
