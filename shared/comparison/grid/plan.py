"""Which runs a comparison has: every arm with every seed, whole seeds first.

A run is known by a digest of its config and inputs, which is part of its folder's name:
what another call has finished under the same config is found again, whatever else that
call compared.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.comparison.grid import budget as budgets
from shared.comparison.grid.arms import NTP, Arm, arms_of
from shared.comparison.grid.asked import Asked
from shared.comparison.grid.found import Budget, Cost, Member, Plan, Share
from shared.config.fields import Config
from shared.config.layers import flatten
from shared.evaluation.tasks.loading import load_problems
from shared.evaluation.tasks.solutions import form_that_fits
from shared.run.command_line import parse
from shared.run.effects import require_effect
from shared.run.inputs import Inputs, read_inputs
from shared.state.model_source import find_folder
from shared.state.run_folder import FREE_ON_RESUME

# They do not change what a run computes, or they are part of the plan.
NOT_OF_A_RUN = FREE_ON_RESUME - {"train.epochs", "train.max_steps"} | {
    *("tags", "tracking.experiment", "seed"),
}
Measured = Mapping[str, tuple[float, float]]  # arm -> seconds of a step, before them


@dataclass(frozen=True, kw_only=True)
class Arms:
    """The trained arms with what they are trained on.

    Attributes:
      configs: of each arm's first seed, before its steps are known.
      inputs: of each arm; those that ask the same of frozen models share them.
    """

    configs: dict[str, Config]
    inputs: dict[str, Inputs]


def read_arms(arms: Sequence[Arm], asked: Asked, backend: str) -> Arms:
    """Config and inputs of every trained arm, checked before anything runs.

    Raises:
      ValueError: for anything the user can mend.
    """
    configs: dict[str, Config] = {}
    inputs: dict[str, Inputs] = {}
    read: dict[tuple[str, ...], Inputs] = {}  # by signals: all else is the same
    for arm in arms:
        if arm.kind != "trained":
            continue
        cfg = config_of(arm, asked, backend)
        require_effect(cfg)
        key = cfg.algorithm.signals
        if key not in read:
            read[key] = read_inputs(cfg, backend)
        found = read[key]
        inputs[arm.name] = replace(found, cfg=replace(cfg, model=found.cfg.model))
        configs[arm.name] = inputs[arm.name].cfg
    return Arms(configs=configs, inputs=inputs)


def config_of(arm: Arm, asked: Asked, backend: str) -> Config:
    """The config that training makes of the options of an arm."""
    called = parse([*asked.training, *arm.options], prog=f"{backend}.compare")
    return called.config


def make_plan(
    asked: Asked,
    backend: str,
    machine: dict[str, str],
    measure: Callable[[Sequence[Arm], Arms], Measured],
) -> tuple[Plan, Arms]:
    """All runs of the comparison, in their order.

    Args:
      measure: seconds of each arm's steps, asked only for a budget of seconds.

    Raises:
      ValueError: for anything the user can mend.
    """
    arms = arms_of(asked.algos, asked.controls, asked.files)
    _check_files(arms, asked)
    if not any(arm.kind == "trained" for arm in arms):
        raise ValueError("--algos must name at least one arm, got none")
    known = read_arms(arms, asked, backend)
    _check_problems(asked, known)
    measured = measure(arms, known) if asked.kind == "seconds" else {}
    budget, shares = _shares(asked, known, measured)
    some = next(iter(known.configs.values()))
    members = _members(arms, known, shares, asked, backend)
    plan = Plan(
        backend=backend,
        model=some.model.name,
        data=some.data.source,
        options=asked.training,
        evaluate=asked.evaluate,
        tasks=asked.tasks,
        ks=asked.ks,
        budget=budget,
        arms=tuple(arms),
        shares=shares,
        members=tuple(members),
        machine=machine,
    )
    return plan, known


def _check_files(arms: Sequence[Arm], asked: Asked) -> None:
    for arm in arms:
        for task in asked.tasks if arm.kind == "files" else ():
            file = Path(arm.folder).expanduser() / f"{task}.jsonl"
            if not file.is_file():
                raise ValueError(f"--files must have a file of every task, no {file}")


def _check_problems(asked: Asked, known: Arms) -> None:
    """Reads them once, and the model's prompts: what will not do is told at once."""
    inputs = next(iter(known.inputs.values()))
    given = asked.problems
    task: Any
    for task, source in given.sources.items():
        problems = load_problems(task, source, split=given.split, limit=given.limit)
        most = inputs.cfg.model.max_positions
        form_that_fits(inputs.tokenizer, most, problems, given.form)


def _shares(
    asked: Asked, known: Arms, measured: Measured
) -> tuple[Budget, dict[str, Share]]:
    """The budget, and what each trained arm makes of it."""
    costs: dict[str, tuple[int, Cost, Cost]] = {}
    for name, cfg in known.configs.items():
        inputs = known.inputs[name]
        steps = budgets.usual_steps(cfg, inputs)
        step = budgets.step_cost(cfg, inputs.splits["train"], steps)
        before = budgets.preparing_cost(inputs)
        if name in measured:
            seconds, ahead = measured[name]
            step, before = (
                replace(step, seconds=seconds),
                replace(before, seconds=ahead),
            )
        costs[name] = steps, step, before
    amount = asked.amount
    if amount is None:
        amount = budgets.usual_amount(asked.kind, asked.preparing, costs)
    budget = Budget(kind=asked.kind, amount=amount, preparing=asked.preparing)
    shares = {
        name: budgets.share_of(budget, name, step, before)
        for name, (_, step, before) in costs.items()
    }
    return budget, shares


def _members(
    arms: Sequence[Arm],
    known: Arms,
    shares: Mapping[str, Share],
    asked: Asked,
    backend: str,
) -> list[Member]:
    """Every arm with every seed; one seed after the other."""
    evaluation = digest({"evaluate": asked.evaluate, "acceptance": asked.acceptance})
    some = next(iter(known.inputs.values()))
    starts_from = find_folder(some.cfg)
    once: list[Member] = []
    for arm in arms:
        if arm.kind == "files":
            once.append(Member(arm=arm.name, name=arm.name, model=arm.folder))
        elif arm.kind == "untouched" and starts_from is not None:
            name = f"{arm.name}-{digest(some.digests.get('model', ''))}"
            once.append(Member(arm=arm.name, name=name, model=str(starts_from)))
    members = once
    first = some.cfg.seed
    seeds = range(first, first + asked.seeds)
    for seed in seeds:
        for arm in arms:
            if arm.kind == "trained":
                members.append(
                    _trained(arm, seed, seeds, known, shares[arm.name], asked, backend)
                )
            elif arm.kind == "untouched" and starts_from is None:
                members.append(_start(arm, seed, known, asked, backend))
    folder = lambda member: f"{member.name}.{evaluation}"  # noqa: E731
    return [replace(x, evaluated=folder(x)) for x in members]


def _trained(
    arm: Arm,
    seed: int,
    seeds: Sequence[int],
    known: Arms,
    share: Share,
    asked: Asked,
    backend: str,
) -> Member:
    inputs = known.inputs[arm.name]
    epochs = budgets.epochs_for(inputs.cfg, inputs, seeds, share.steps)
    length = ("--train.epochs", str(epochs), "--train.max-steps", str(share.steps))
    train = replace(inputs.cfg.train, epochs=epochs, max_steps=share.steps)
    cfg = replace(inputs.cfg, train=train)
    return _member(arm, seed, cfg, inputs, (*arm.options, *length), asked, backend)


def _start(arm: Arm, seed: int, known: Arms, asked: Asked, backend: str) -> Member:
    """A preset's random weights, as a run of one step has left them before it."""
    name = NTP if NTP in known.inputs else next(iter(known.inputs))
    inputs = known.inputs[name]
    cfg = budgets.plain_config(inputs.cfg)
    cfg = replace(cfg, train=replace(cfg.train, max_steps=1))
    options: tuple[str, ...] = (
        "--algo",
        cfg.algo,
        "--heads.count",
        "1",
        "--train.max-steps",
        "1",
    )
    options += ("--train.no-export",)
    made = _member(arm, seed, cfg, inputs, options, asked, backend)
    return replace(made, model=f"{made.model}/checkpoints/0")


def _member(
    arm: Arm,
    seed: int,
    cfg: Config,
    inputs: Inputs,
    options: Sequence[str],
    asked: Asked,
    backend: str,
) -> Member:
    told = {n: x for n, x in flatten(cfg).items() if n not in NOT_OF_A_RUN}
    known = digest({"config": told, "inputs": inputs.digests, "backend": backend})
    name = f"{arm.name.replace('+', '.')}-s{seed}-{known}"
    runs = str((asked.folder / "runs").absolute())
    own = ("--seed", str(seed), "--run-name", name, "--output-dir", runs)
    command = (f"{backend}.train", *asked.training, *options, *own)
    model = f"{runs}/{name}"
    return Member(arm=arm.name, name=name, seed=seed, model=model, command=command)


def digest(of: Any) -> str:
    """Eight hexadecimal digits that tell one thing from another."""
    text = json.dumps(of, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
