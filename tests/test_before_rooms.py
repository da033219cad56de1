"""What the program computed and wrote before its files stood in rooms still holds."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from tests.cases import shorter

BEFORE = Path(__file__).parent / "fixtures" / "before_rooms"
TRAINERS = ("wmtp_jax", "wmtp_torch_mps")
TIMES = {"seconds", "tokens_per_s", "tflops_per_s"}


def rows_of(path: Path) -> dict[int, dict]:
    return {row["step"]: row for row in map(json.loads, path.read_text().splitlines())}


def assert_same(found: dict[int, dict], right: dict[int, dict], rel: float) -> None:
    """Every metric of every step of `right`; what a clock decides is left out.

    On the machine that made the files the difference is 0. Another processor sums in
    another order, which training then enlarges.
    """
    assert right.keys() <= found.keys()
    for step, row in right.items():
        assert found[step].keys() == row.keys()
        for name in row.keys() - TIMES:
            limit = pytest.approx(row[name], rel=rel, abs=rel)
            assert found[step][name] == limit, (step, name)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_checkpoint_is_gone_on_with(trainer, tmp_path):
    run = Path(shutil.copytree(BEFORE / "trained" / trainer, tmp_path / "run"))
    main = import_module(f"{trainer}.train").main
    assert main(["--resume", str(run), "--train.max-steps", "8"]) == 0
    right = rows_of(BEFORE / "metrics" / f"{trainer}-resumed.jsonl")
    found = rows_of(run / "metrics.jsonl")
    # The first run ended at step 4, and so evaluated and logged what it would not have.
    assert_same(found, right, rel=1e-4)
    assert json.loads((run / "summary.json").read_text())["steps"] == 8


@pytest.mark.parametrize("trainer", shorter(TRAINERS, TRAINERS[1:]))
def test_an_export_is_gone_on_with(trainer, tmp_path):
    main = import_module(f"{trainer}.train").main
    where = ["--output-dir", str(tmp_path), "--run-name", "more", "--device", "cpu"]
    more = ["--train.max-steps", "8"]
    assert main(["--resume", str(BEFORE / "export"), *where, *more]) == 0
    right = rows_of(BEFORE / "metrics" / "wmtp_jax-resumed.jsonl")
    found = rows_of(tmp_path / "more" / "metrics.jsonl")
    assert sorted(found) == [5, 6, 7, 8]
    # Between the trainers, and from moments that have been written and read.
    new = {step: row for step, row in right.items() if step > 4}
    assert_same(found, new, rel=1e-3)


@pytest.mark.slow
# The critic begins with a better value head since.
@pytest.mark.parametrize("algo", ["baseline", "rho1-weighted", "rho1-tokenskip"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_default_run_computes_what_it_did(trainer, algo, tmp_path):
    main = import_module(f"{trainer}.train").main
    where = ["--output-dir", str(tmp_path), "--run-name", "now", "--tracking", "jsonl"]
    assert main(["--algo", algo, *where]) == 0
    right = rows_of(BEFORE / "metrics" / f"{trainer}-{algo}.jsonl")
    found = rows_of(tmp_path / "now" / "metrics.jsonl")
    first = {step: row for step, row in right.items() if step <= 10}
    assert_same(found, first, rel=1e-3)
    last = max(right)
    assert max(found) == last
    name = "eval_nll_head_0"
    assert found[last][name] == pytest.approx(right[last][name], abs=0.05)
