"""The runs of a comparison: their steps within a budget, names and order."""

import math
from itertools import islice

import numpy as np
import pytest

from shared.comparison.grid.asked import read_arguments
from shared.comparison.grid.budget import preparing_cost, step_cost
from shared.comparison.grid.plan import make_plan
from shared.data.batches import TrainBatches
from shared.run.command_line import parse
from shared.run.inputs import read_inputs
from shared.tracking.flops import step_flops

SMALL = (
    "--model smoke --model.num-layers 1 --model.width 16 --heads 2 "
    "--model.max-positions 512 --data.max-length 64 "
    "--reference.epochs 2 --train.epochs 2 --data.max-examples 12"
).split()


def planned(folder, *options, measure=None):
    few = ("--limit", "5", "--to", str(folder))
    asked = read_arguments([*SMALL, *few, *options], "wmtp_jax", "doc")
    return make_plan(asked, "wmtp_jax", {}, measure)[0]


def steps_of(plan):
    return {name: share.steps for name, share in plan.shares.items()}


def test_every_arm_with_every_seed_whole_seeds_first(tmp_path):
    plan = planned(tmp_path, "--seeds", "2", "--seed", "5")
    order = [(x.seed, x.arm) for x in plan.members]
    arms = [arm.name for arm in plan.arms]
    assert order == [(seed, arm) for seed in (5, 6) for arm in arms]
    assert arms == [
        *("untouched", "ntp", "baseline", "rho1-weighted", "rho1-weighted+shuffle"),
        *("rho1-tokenskip", "rho1-tokenskip+shuffle", "critic", "critic+shuffle"),
    ]
    names = [x.name for x in plan.members]
    assert len(set(names)) == len(names)


def test_a_command_is_the_config_that_its_name_tells(tmp_path):
    plan = planned(tmp_path, "--seeds", "1", "--optimizer.lr", "1e-3")
    for member in plan.members:
        cfg = parse(list(member.command[1:]), prog="x").config
        assert cfg.seed == member.seed and cfg.optimizer.lr == 1e-3
        assert f"{cfg.output_dir}/{cfg.run_name}" == member.model.removesuffix(
            "/checkpoints/0"
        )
        if member.arm in plan.shares:
            assert cfg.train.max_steps == plan.shares[member.arm].steps


def test_names_change_with_what_a_run_computes_alone(tmp_path):
    def names(*options):
        plan = planned(tmp_path, "--seeds", "1", "--algos", "ntp", *options)
        return [x.name for x in plan.members]

    assert names() == names("--train.save-every", "7", "--tags", "a")
    assert names("--seeds", "2")[: len(names())] == names()
    assert names() != names("--optimizer.lr", "1e-3")
    assert names() != names("--data.max-length", "96")


def test_what_comes_before_is_paid_from_the_budget(tmp_path):
    told = planned(tmp_path, "--preparing", "told")
    paid = planned(tmp_path)
    assert len(set(steps_of(told).values())) == 1
    usual = told.shares["ntp"].steps
    assert min(steps_of(paid).values()) == usual
    for name, share in paid.shares.items():
        assert share.steps + share.before.steps == paid.budget.amount, name
    assert paid.shares["ntp"].before.flops == 0
    assert (
        paid.shares["critic"].before.flops > paid.shares["rho1-weighted"].before.flops
    )
    assert paid.shares["rho1-weighted"].before.steps > 0


@pytest.mark.parametrize("kind", ["steps", "tokens", "flops"])
def test_no_arm_spends_more_than_the_budget_and_one_step_more_would(tmp_path, kind):
    plan = planned(tmp_path, "--budget", kind, "--controls", "random")
    for share in plan.shares.values():
        before, step = getattr(share.before, kind), getattr(share.step, kind)
        assert before + share.steps * step <= plan.budget.amount * (1 + 1e-6)
        assert before + (share.steps + 1) * step > plan.budget.amount
    steps = steps_of(plan)
    assert steps["ntp"] == max(steps.values())


def test_seconds_are_those_that_were_measured(tmp_path):
    def measure(arms, known):
        return {name: (2.0, 10.0 * (name == "critic")) for name in known.configs}

    plan = planned(tmp_path, "--budget", "seconds=50", measure=measure)
    assert set(steps_of(plan).values()) == {25, 20}
    assert plan.shares["critic"].steps == 20


def test_a_budget_that_leaves_no_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must leave every arm a step, got 1 steps"):
        planned(tmp_path, "--budget", "steps=1")


def test_the_cost_of_a_step_is_the_mean_of_its_batches(tmp_path):
    cfg = parse([*SMALL, "--algo", "rho1-tokenskip"], prog="x").config
    inputs = read_inputs(cfg, "wmtp_jax")
    cfg = inputs.cfg
    train = TrainBatches(
        inputs.splits["train"], {}, max_length=64, batch_size=cfg.data.batch_size,
        accumulation=1, layout="packed", seed=cfg.seed,
    )  # fmt: skip
    tokens, flops = [], []
    for batch in islice(train, 2):
        tokens.append((batch.document_BL > 0).sum())
        rows = []
        for k in range(cfg.heads.count):
            same = (
                batch.document_BL[..., 1 + k :] == batch.document_BL[..., : -1 - k]
            ) & batch.target_BL[..., 1 + k :]
            rows.append(0.7 * same.sum())
        flops.append(step_flops(cfg, batch, rows))
    found = step_cost(cfg, inputs.splits["train"], 2)
    assert math.isclose(found.tokens, np.mean(tokens))
    assert math.isclose(found.flops, np.mean(flops), rel_tol=1e-6)
    assert preparing_cost(inputs).steps > 0


@pytest.mark.parametrize(
    "options, said",
    [
        (["--algo", "critic"], "--algo is no option of compare"),
        (["--run-name=x"], "--run-name is no option of compare"),
        (["--budget", "hours"], "--budget must be steps, tokens, flops, seconds"),
        (["--budget", "steps=0"], "--budget must be steps, tokens"),
        (["--seeds", "0"], "--seeds must be >= 1, got 0"),
        (["--tasks", "validation"], "--tasks must have bits or a task"),
        (["--tasks", "bits,mbpp", "--k", "2"], "--k must be at most --samples = 1"),
        (["--hours", "-1"], "--hours must be >= 0"),
        (["--fail-on-regression", "x"], "--fail-on-regression must be METRIC:TOL"),
        (["--fail-on-regression", "loss:1"], "must be of bits_per_byte, which"),
        (["--algos", "ntp", "--fail-on-regression", "bits_per_byte:1"], "of --algos"),
        (["--algos", "none"], "--algos must be of ntp"),
        (["--problems", "mbpp=nowhere"], "nowhere"),
        (["--files", "other=nowhere"], "--files must have a file of every task"),
        (["--optimiser.lr", "1"], "unknown option --optimiser.lr"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        planned(tmp_path / "new", *options)
    assert not (tmp_path / "new").exists()
