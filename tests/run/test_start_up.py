"""What a command imports: nothing slow that it does not use."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases import shorter

SLOW = {
    *("jax", "flax", "optax", "orbax", "torch", "transformers", "datasets", "mlflow"),
    *("scipy", "huggingface_hub", "pandas", "sqlalchemy"),
}
# Module, arguments, and what of the above may be imported, for a run until it has made
# its first step.
FIRST = "--model smoke --critic.stage1-epochs 1 --train.max-steps 2"
JAX, TORCH = "wmtp_jax.train", "wmtp_torch_mps.train"
CASES = {
    "help of JAX": (JAX, "--help", set()),
    "help of torch": (TORCH, "--help", set()),
    "help of serve": ("wmtp_jax.serve", "--help", set()),
    "a mistake in JAX": (JAX, "--algo ppo", set()),
    "a mistake in torch": (TORCH, "--algo ppo", set()),
    "dry run of JAX": (JAX, "--dry-run --algo critic", {"jax"}),
    "dry run of torch": (TORCH, "--dry-run --algo critic --device cpu", set()),
    "run of JAX": (
        JAX,
        f"--algo critic {FIRST}",
        {"jax", "flax", "optax", "orbax"},
    ),
}
# Runs a main module, and says what it has imported once it has made a step, or else at
# its end.
PROGRAM = """
import json, os, runpy, sys
from tests.cases import shorter
slow, sys.argv = set(json.loads(sys.argv[1])), sys.argv[2:]

def tell(*_):
    found = slow & {name.partition(".")[0] for name in sys.modules}
    print("imported:", *sorted(found), file=sys.stderr, flush=True)
    os._exit(0)

if "--train.max-steps" in sys.argv:
    from shared.run.loop import Loop
    Loop.log = tell
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
finally:
    tell()
"""


@pytest.mark.parametrize(
    "case", shorter(CASES, [x for x in CASES if x != "run of JAX"])
)
def test_nothing_slow_is_imported_that_is_not_used(case, tmp_path):
    module, words, allowed = CASES[case]
    if sys.platform == "darwin" and case == "dry run of torch":
        allowed = {"torch"}  # which knows of mps
    program = [sys.executable, "-c", PROGRAM, json.dumps(sorted(SLOW)), module]
    done = subprocess.run(
        [*program, *words.split(), "--output-dir", str(tmp_path / "runs")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    *_, last = done.stderr.splitlines()
    assert last.startswith("imported:"), done.stderr
    assert set(last.split()[1:]) <= allowed, last
    if case.startswith("run"):
        assert set(last.split()[1:]) == allowed, done.stderr  # it came so far
