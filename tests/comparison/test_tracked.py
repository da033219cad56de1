"""A comparison in MLflow: its own run, with the members' below it."""

import json

import pytest

from shared.comparison.grid.arms import Arm
from shared.comparison.grid.found import Budget, Member, Plan, read_found, write_plan
from shared.comparison.tracked import track
from shared.config.layers import dump_config
from tests import tracked
from tests.tracked import client, config, run_id

killed, folder = tracked.killed, tracked.folder


@pytest.fixture
def comparison(folder):
    """Two runs of one arm, tracked and evaluated."""
    top = folder.parent
    members = []
    for name, bits in (("a", 2.0), ("b", 4.0)):
        cfg = config(folder, run_name=name)
        (folder / name / "config.yaml").write_text(dump_config(cfg))
        there = top / "evaluated" / name
        there.mkdir(parents=True)
        line = {"task_id": "1", "bits": bits, "bytes": 4}
        (there / "mbpp.jsonl").write_text(json.dumps(line) + "\n")
        members.append(Member(arm="critic+shuffle", name=name, command=("x",)))
    plan = Plan(
        backend="wmtp_jax", model="m", data="d", options=(), evaluate=(),
        tasks=("mbpp",), ks=(1,), arms=(Arm(name="critic+shuffle"),), shares={},
        budget=Budget(kind="steps", amount=3, preparing="counts"),
        members=tuple(members), machine={},
    )  # fmt: skip
    write_plan(top, plan)
    (top / "report.md").write_text("found")
    return top


def test_members_stand_below_the_comparison(comparison):
    for _ in range(2):  # the second time nothing is made again
        shown = track(read_found(comparison))
    runs = comparison / "runs"
    assert str(runs / "mlflow.db") in shown
    parent = run_id(runs / "comparison")
    for name in "ab":
        tags = client(runs).get_run(run_id(runs / name)).data.tags
        assert tags["mlflow.parentRunId"] == parent
    found = client(runs).get_run(parent)
    assert found.data.metrics["critic.shuffle/mbpp/bits_per_byte"] == 0.75
    assert found.data.params["budget"] == "3 steps, preparing counts"
    files = {x.path for x in client(runs).list_artifacts(parent, "comparison")}
    assert files == {"comparison/report.md", "comparison/plan.json"}


def test_runs_that_are_not_tracked_make_no_store(comparison):
    for name in "ab":
        (comparison / "runs" / name / "mlflow_run.json").unlink()
    assert track(read_found(comparison)) == ""
    assert not (comparison / "runs" / "comparison").exists()
