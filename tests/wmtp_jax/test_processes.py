"""Real processes that train one model over loopback: equal to one; what ends them."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from shared.config.layers import load_config
from shared.run.peers import STALLED
from tests import resuming, trained
from tests.resuming import resume, rows_of, saved_steps
from tests.several import fault_at, trained_by
from tests.trained import SMALL
from wmtp_jax import checkpoint, train
from wmtp_jax.processes import is_of_peers, own_rows, spread, spread_rows
from wmtp_jax.sharding import mesh_of

whole = resuming.whole
ABORTED = -6  # JAX itself ends a process whose coordinator is gone
# Of a run that is to be found standing still: seconds of silence, times the median.
WATCHED = ("--train.watchdog", "20", "--train.watchdog-seconds", "10")


def options(folder: Path, *more: str) -> list[str]:
    place = ["--output-dir", str(folder), "--run-name", "run", "--train.no-export"]
    return [*SMALL, *place, *more]


# Twelve updates of Adam enlarge what sums in another order differ by, and the more
# parts are added up the more: one update agrees within 1e-5 (test_devices.py).
OF_TWO, OF_FOUR = 1e-4, 1e-3


def assert_same_rows(run: Path, other: Path, tolerance: float = OF_TWO) -> None:
    """Equal metrics at every step, but for the order in which sums were made."""
    ours, theirs = rows_of(run), rows_of(other)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, wanted in zip(ours, theirs, strict=True):
        assert row.keys() == wanted.keys()
        for name, value in wanted.items():
            assert row[name] == pytest.approx(value, rel=tolerance, abs=1e-6), name


def distance(run: Path, other: Path) -> float:
    """Between the parameters of two runs, over their size.

    Together: a bias of keys has no gradient but rounding, of which Adam makes steps.
    """

    def params_of(run: Path) -> np.ndarray:
        _, state, _ = checkpoint.read_run(run, load_config(run / "config.yaml"))
        leaves = jax.tree.leaves(state.params)
        return np.concatenate([np.asarray(x).reshape(-1) for x in leaves])

    found, wanted = params_of(run), params_of(other)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_two_processes_are_one_and_stop_together(whole, tmp_path):
    """One of them is told to stop: both save the same step; one alone goes on."""
    ended = trained_by(2, tmp_path / "said", *options(tmp_path), fault="1:8:terminate")
    assert [x.code for x in ended] == [143, 143], ended[1].err
    run = tmp_path / "run"
    assert saved_steps(run) == [0, 3, 6, 8]
    assert "process 0 of 2" in ended[0].out and "steps" in ended[0].out
    said = ended[1].out.splitlines()  # by the library that carries the sums
    assert [line for line in said if not line.startswith("[Gloo]")] == []
    # What the first has written nobody else has written a second time.
    assert [row["step"] for row in rows_of(run)] == list(range(9))
    assert json.loads((run / "inputs.json").read_text())
    assert resume(run) == 0
    assert_same_rows(run, whole)
    assert distance(run, whole) < OF_TWO


def test_with_one_process_arrays_are_as_they_were():
    mesh = mesh_of(jax.devices()[:1])
    rows = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
    assert own_rows(rows, (2, 8, 16)) == (0, 8)
    batch = np.ones((2, 8, 16))
    assert spread_rows(batch, rows, 8) is batch
    assert spread(batch, NamedSharding(mesh, PartitionSpec())).shape == batch.shape


@pytest.mark.parametrize(
    ("error", "of_peers"),
    [
        (ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed"), True),
        (RuntimeError("NCCL operation failed: unhandled system error"), True),
        (ValueError("data.source must be a folder"), False),
        (KeyError("Gloo"), False),
    ],
)
def test_an_error_of_a_peer_is_known(error, of_peers):
    assert is_of_peers(error) is of_peers
    made_of_it = OSError("the checkpoint of step 3 must be written")
    made_of_it.__cause__ = error
    assert is_of_peers(made_of_it) is of_peers


# --- long ones -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["baseline", "rho1-weighted", "critic"])
def test_four_processes_are_one(algo, whole_run, tmp_path):
    ended = trained_by(
        4, tmp_path / "said", *SMALL, "--algo", algo, "--output-dir", str(tmp_path),
        "--run-name", "run",
    )  # fmt: skip
    assert [x.code for x in ended] == [0] * 4, ended[-1].err
    wanted, run = whole_run(train, algo), tmp_path / "run"
    assert_same_rows(run, wanted, OF_FOUR)
    assert distance(run, wanted) < OF_FOUR
    ours, theirs = (
        json.loads((x / "summary.json").read_text())["documents"] for x in (run, wanted)
    )
    assert ours == theirs
    assert (run / "model" / "config.json").exists()


@pytest.mark.slow
def test_pieces_over_processes_are_read_by_fewer(whole, tmp_path):
    """Matrices in pieces on four processes; two go on, then one."""
    run = tmp_path / "run"
    four = options(tmp_path, "--machine.fsdp", "2", "--machine.tensor", "2")
    ended = trained_by(4, tmp_path / "four", *four, fault="3:5:terminate")
    assert [x.code for x in ended] == [143] * 4, ended[0].err
    assert saved_steps(run)[-1] == 5
    on = ["--resume", str(run), "--machine.fsdp", "2", "--machine.tensor", "1"]
    ended = trained_by(2, tmp_path / "two", *on, fault="0:4:terminate")
    assert [x.code for x in ended] == [143] * 2, ended[0].err
    assert saved_steps(run)[-1] == 9
    assert resume(run, "--machine.fsdp", "1") == 0
    assert_same_rows(run, whole, OF_FOUR)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("what", ["kill", "stop", "sleep", "raise"])
def test_the_others_end_and_say_which(what, who, count, whole, tmp_path, capsys):
    if count == 4 and (what, who) not in (("kill", 1), ("stop", 0)):
        pytest.skip("two of four processes say as much")
    ended = trained_by(
        count, tmp_path / "said", *options(tmp_path, *WATCHED),
        fault=f"{who}:8:{what}", stays=(who,) if what == "stop" else (),
    )  # fmt: skip
    others = [x for index, x in enumerate(ended) if index != who]
    late = max(x.at for x in others) - fault_at(ended)
    with capsys.disabled():
        print(f"\n{what} process {who} of {count}: the others after {late:.1f} s")
    assert late < 60
    if (what, who) == ("kill", 0):  # the coordinator: JAX does not wait for a word
        assert {x.code for x in others} <= {STALLED, ABORTED}
        assert all("leader" in x.err or "process 0" in x.err for x in others)
    else:
        wanted = 1 if what == "raise" else STALLED
        assert [x.code for x in others] == [wanted] * len(others), others[0].err
        assert all(f"process {who} of {count}" in x.err for x in others)
    run = tmp_path / "run"
    for leftover in run.glob("stacks-*.txt"):
        assert "Thread" in leftover.read_text()
    assert saved_steps(run)[-1] == 6
    assert resume(run) == 0
    assert_same_rows(run, whole, OF_FOUR)


@pytest.mark.slow
def test_a_mistake_of_the_first_is_told_by_all(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("not empty")
    ended = trained_by(2, tmp_path / "said", *options(tmp_path))
    assert [x.code for x in ended] == [2, 2]
    assert all("run_name must be new" in x.err for x in ended)
    shutil.rmtree(tmp_path / "run")
    assert trained.STEPS  # nothing else was left
    assert not list(tmp_path.glob("*.tmp"))
