"""Runs of the grid as processes: what is there, fails, is stopped, killed, goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from shared.comparison.grid.arms import Arm
from shared.comparison.grid.asked import read_arguments
from shared.comparison.grid.found import (
    Budget,
    Member,
    Plan,
    read_found,
    read_plan,
    write_plan,
)
from shared.comparison.grid.running import Stopped, jobs_of, run_member

FAKE = Path(__file__).parent / "fake"
FOREVER = float("inf")


@pytest.fixture(autouse=True)
def fake_trainer(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{FAKE}{os.pathsep}{Path.cwd()}")


def member(folder: Path, name: str, *, steps: int = 3, fails: str = "") -> Member:
    options = ("--steps", str(steps), *(("--fails", fails) if fails else ()))
    runs = str(folder / "runs")
    own = ("--run-name", name, "--output-dir", runs)
    command = ("fake_trainer.train", *options, *own)
    return Member(arm="ntp", name=name, seed=0, model=f"{runs}/{name}", command=command)


def plan_of(*members: Member) -> Plan:
    return Plan(
        backend="fake_trainer",
        model="m",
        data="d",
        options=(),
        evaluate=("--tasks", "bits"),
        tasks=("mbpp",),
        ks=(1,),
        budget=Budget(kind="steps", amount=3, preparing="counts"),
        arms=(Arm(name="ntp"),),
        shares={},
        members=members,
        machine={},
    )


def asked(folder: Path, *options: str):
    return read_arguments(["--to", str(folder), *options], "fake_trainer", "doc")


def ran(folder, plan, one, deadline=FOREVER, options=()):
    told = []
    outcome = run_member(
        folder, plan, one, asked(folder, *options), deadline,
        lambda _, what: told.append(what),
    )  # fmt: skip
    return outcome, told


def test_a_member_is_trained_and_evaluated_once(tmp_path):
    one = member(tmp_path, "a")
    plan = plan_of(one)
    outcome, told = ran(tmp_path, plan, one)
    assert (outcome.state, told) == ("finished", ["train", "evaluate"])
    assert outcome.results["mbpp"][0].bits == 1.0
    assert not jobs_of(tmp_path, plan, one, asked(tmp_path))
    assert ran(tmp_path, plan, one)[1] == []
    assert (tmp_path / "runs" / "started.txt").read_text() == "a 0\n"


@pytest.mark.parametrize(
    "keep, left", [("all", True), ("models", False), ("results", False)]
)
def test_checkpoints_of_a_finished_run_go(tmp_path, keep, left):
    one = member(tmp_path, "a")
    model = tmp_path / "runs" / "a" / "model"
    model.mkdir(parents=True)
    ran(tmp_path, plan_of(one), one, options=("--keep", keep))
    assert (tmp_path / "runs" / "a" / "checkpoints").exists() == left
    assert model.exists() == (keep != "results")
    assert read_found_state(tmp_path, plan_of(one)) == ["finished"]


def test_a_run_that_was_tidied_away_is_trained_again_for_another_evaluation(tmp_path):
    one = member(tmp_path, "a")
    ran(tmp_path, plan_of(one), one, options=("--keep", "results"))
    other = replace(one, evaluated="another")
    outcome, told = ran(tmp_path, plan_of(other), other)
    assert (outcome.state, told) == ("finished", ["train", "evaluate"])
    started = (tmp_path / "runs" / "started.txt").read_text()
    assert started == "a 0\na 0\n"


def read_found_state(folder, plan):
    write_plan(folder, plan)
    return [outcome.state for outcome in read_found(folder).outcomes]


def test_a_failed_run_says_why_and_is_tried_again(tmp_path):
    bad, good = member(tmp_path, "bad", fails="no memory"), member(tmp_path, "good")
    plan = plan_of(bad, good)
    outcome, told = ran(tmp_path, plan, bad)
    assert (outcome.state, told) == ("failed", ["train"])
    assert "train: no memory (exit code 1" in outcome.why
    assert ran(tmp_path, plan, good)[0].state == "finished"
    assert read_found_state(tmp_path, plan) == ["failed", "finished"]
    config = tmp_path / "runs" / "bad" / "config.yaml"
    config.write_text(json.dumps({"steps": 1, "fails": ""}))
    assert ran(tmp_path, plan, bad)[0].state == "finished"
    assert read_found_state(tmp_path, plan) == ["finished", "finished"]


def test_the_deadline_stops_a_run_which_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_STEP", "0.1")
    one = member(tmp_path, "a", steps=20)
    plan = plan_of(one)
    with pytest.raises(Stopped):
        ran(tmp_path, plan, one, deadline=time.monotonic() + 1)
    saved = max(
        int(x.name) for x in (tmp_path / "runs" / "a" / "checkpoints").iterdir()
    )
    assert saved < 20
    assert read_found_state(tmp_path, plan) == ["missing"]
    monkeypatch.setenv("FAKE_STEP", "0")
    assert ran(tmp_path, plan, one)[0].state == "finished"
    starts = (tmp_path / "runs" / "started.txt").read_text().splitlines()
    assert starts[1] == f"a {saved}"


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_running import asked, plan_of, member, ran
folder = Path({folder!r})
members = [member(folder, name, steps=10) for name in "abc"]
for one in members:
    ran(folder, plan_of(*members), one)
"""


def test_a_grid_killed_five_times_is_as_one_never_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_STEP", "0.05")
    paths = [str(Path(__file__).parent), str(Path.cwd())]
    for number in range(6):
        script = KILLED.format(paths=paths, folder=str(tmp_path / "killed"))
        process = subprocess.Popen([sys.executable, "-c", script])
        if number < 5:
            time.sleep(0.4 + 0.15 * number)
            process.send_signal(signal.SIGKILL)
            process.wait()
        else:
            assert process.wait(60) == 0
    found = {}
    for name in ("killed", "whole"):
        folder = tmp_path / name
        members = [member(folder, x, steps=10) for x in "abc"]
        if name == "whole":
            monkeypatch.setenv("FAKE_STEP", "0")
            for one in members:
                ran(folder, plan_of(*members), one)
        write_plan(folder, plan_of(*members))
        read = read_found(folder)
        found[name] = [(x.state, x.summary, x.results) for x in read.outcomes]
    assert found["killed"] == found["whole"]
    assert [state for state, *_ in found["whole"]] == ["finished"] * 3


def test_a_plan_reads_back(tmp_path):
    plan = plan_of(member(tmp_path, "a"))
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(ValueError, match=r"must hold a plan\.json of compare"):
        read_plan(tmp_path)
