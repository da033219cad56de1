"""The command from the options to the report, with real trainers in real processes."""

import json
from importlib import import_module

import pytest

from shared.comparison.compare import held
from shared.comparison.grid.found import read_found

SMALL = (
    "--model smoke --model.num-layers 1 --model.width 16 --model.max-positions 512 "
    "--heads 2 --data.max-length 64 --train.max-steps 2 --train.epochs 1 "
    "--reference.epochs 1 --critic.stage1-epochs 1 --limit 3 --seeds 1 "
    "--preparing told --tracking jsonl --data.max-examples 9 --algos rho1-tokenskip"
).split()
TRAINERS = [
    "wmtp_torch_mps",
    pytest.param("wmtp_jax", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("backend", TRAINERS)
def test_from_options_to_a_report_that_goes_on(tmp_path, capsys, backend):
    main = import_module(f"{backend}.compare").main
    asked = [*SMALL, "--to", str(tmp_path), "--controls", ""]
    assert main([*asked, "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())
    assert "2 of 2 runs are left" in capsys.readouterr().out
    assert main(asked) == 0
    found = read_found(tmp_path)
    assert [x.state for x in found.outcomes] == ["finished"] * 2
    assert {x.summary["steps"] for x in found.outcomes[1:]} == {2}
    assert all(len(x.results["mbpp"]) == 3 for x in found.outcomes)
    for name in ("report.html", "report.md", "results.jsonl"):
        assert (tmp_path / name).stat().st_size > 100
    took = (tmp_path / "took.jsonl").read_text()
    lines = list(map(json.loads, took.splitlines()))
    assert [x["what"] for x in lines] == ["train", "evaluate"] * 2
    capsys.readouterr()
    assert main([*asked, "--dry-run"]) == 0  # nothing is left to run
    assert "0 of 2 runs are left" in capsys.readouterr().out
    assert (tmp_path / "took.jsonl").read_text() == took


def test_mistakes_are_one_line_and_leave_nothing(tmp_path, capsys):
    from wmtp_torch_mps import compare

    folder = tmp_path / "new"
    for options, said in (
        (["--algos", "nothing"], "--algos must be of"),
        (["--report-only"], "must hold a plan.json of compare"),
        (["--tasks", "bits,mbpp"], "--tasks must be of bits, validation"),
        (["--form", "no such form"], "no such form"),
    ):
        assert compare.main([*SMALL, "--to", str(folder), *options]) == 2
        told = capsys.readouterr().err
        assert said in told and told.startswith("error: ") and told.count("\n") == 1
    assert not folder.exists()


def test_two_calls_do_not_work_in_one_folder(tmp_path, capsys):
    from wmtp_torch_mps import compare

    with held(tmp_path):
        assert compare.main([*SMALL, "--to", str(tmp_path)]) == 2
    assert "only one compare may work in a folder" in capsys.readouterr().err
    with held(tmp_path):  # it is given back
        assert not (tmp_path / "plan.json").exists()
