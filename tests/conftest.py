"""JAX flags and offline environment for every test, set before JAX starts.

Compilation is most of the time of these tests: XLA optimises little, and what one test,
process or run has compiled the others find in a folder (`tests/compiled.py`).
"""

import gc
import os
import resource
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import compiled, trained

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Two threads of torch on models as small as these only wait for each other, and use
# ten times the processor for it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Programs run once or twice: the old emitter of loops compiles three times as fast.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1",
)
# Walking all that torch, JAX and transformers hold is a tenth of the time otherwise.
gc.set_threshold(100_000, 20, 50)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
HAS_JAX = find_spec("jax") is not None  # not where the torch trainer is alone
PEAKS: dict[str, dict[str, float]] = {}  # of memory, by process


def pytest_configure(config):
    # Workers of pytest-xdist start from the main process, and so share its folder.
    if HAS_JAX and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = compiled.kept_folder(config.rootpath)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def pytest_collection_finish():
    # What is imported stays: tests that collect garbage need not walk it every time.
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session):
    """Every process tells the most memory that it and one it started ever had.

    Linux counts what a process had when it started another as the other's, too.
    """
    unit = 2**20 if sys.platform == "darwin" else 2**10
    who = {
        "itself": resource.RUSAGE_SELF,
        "its largest child": resource.RUSAGE_CHILDREN,
    }
    peaks = {name: resource.getrusage(x).ru_maxrss / unit for name, x in who.items()}
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peaks"] = peaks
    else:
        PEAKS["main"] = peaks


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    PEAKS[node.gateway.id] = getattr(node, "workeroutput", {}).get("peaks", {})


def pytest_terminal_summary(terminalreporter):
    show_differences(terminalreporter)
    terminalreporter.section("largest memory in MiB")
    for name, of in sorted(PEAKS.items()):
        shown = "  ".join(f"{what} {x:.0f}" for what, x in of.items())
        terminalreporter.write_line(f"{name}: {shown}")


def show_differences(terminalreporter):
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
    if HAS_JAX:
        import jax

        jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def programs_are_freed():
    yield
    if "jax" in sys.modules:
        compiled.free_programs()


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


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory) -> Callable[..., Path]:
    """`whole_run(backend, algo)`: that trainer's one run of that algorithm, to be read.

    Whichever test asks first, what torch computes is audited.
    """
    base = trained.shared_folder(tmp_path_factory) / "whole"

    def of(backend, algo: str) -> Path:
        def make(folder: Path) -> None:
            audit = nullcontext
            if backend.__name__.startswith("wmtp_torch_mps"):
                from tests.mps_audit import audited as audit
            with audit():
                trained.run(backend, folder.parent, folder.name, "--algo", algo)

        place = base / backend.__name__ / algo
        return trained.made_once(place / "whole", make)

    return of
