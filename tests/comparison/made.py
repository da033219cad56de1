"""A comparison's folder as its runs would have left it, with effects that are known."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared.comparison.grid.arms import Arm, arms_of
from shared.comparison.grid.found import (
    Budget,
    Cost,
    Found,
    Member,
    Plan,
    Share,
    evaluated_folder,
    failure_file,
    read_found,
    run_folder,
    write_plan,
)
from shared.files import write_json

ALGOS = ("ntp", "baseline", "rho1-weighted", "critic")
CONTROLS = ("shuffle", "random")
# By how much the bits per byte of an arm differ from those of plain next-token
# training; what is not named here differs by nothing but noise.
EFFECTS = {"untouched": 0.3, "rho1-weighted": -0.05}
STEPS, HEADS = 20, 3
BASE_NLL = 3.0
SAMPLING = {"temperature": 0.8, "top_k": 0, "top_p": 0.95, "min_p": 0.0}
GREEDY = SAMPLING | {"temperature": 0.0, "top_p": 1.0}
COMMAND = ("wmtp_jax.train",)


def plan_of(
    arms: Sequence[Arm], seeds: Sequence[int], tasks: Sequence[str], samples: int
) -> Plan:
    """A plan of these arms, as the runner would write it."""
    members = []
    for arm in arms:
        if arm.kind != "trained":
            members.append(Member(arm=arm.name, name=arm.name, model="small"))
            continue
        for seed in seeds:
            name = f"{arm.name.replace('+', '-')}-{seed}"
            command = (*COMMAND, *arm.options, "--seed", str(seed))
            members.append(
                Member(arm=arm.name, name=name, seed=seed, model=name, command=command)
            )
    step = Cost(steps=1, tokens=900.0, flops=2.5e9, seconds=0.11)
    shares = {
        arm.name: Share(
            steps=STEPS - 4 * bool(arm.options and arm.name not in ALGOS[:2]),
            step=step,
            before=Cost(steps=4.0, tokens=3600.0, flops=1.1e10, seconds=0.5),
        )
        for arm in arms
        if arm.kind == "trained"
    }
    ks = tuple(dict.fromkeys((1, max(1, min(2, samples)))))
    return Plan(
        backend="wmtp_jax",
        model="small",
        data="minis",
        options=("--train.eval_every", "5"),
        evaluate=("--samples", str(samples)),
        tasks=tuple(tasks),
        ks=ks,
        budget=Budget(kind="steps", amount=STEPS, preparing="counts"),
        arms=tuple(arms),
        shares=shares,
        members=tuple(members),
        machine={"processor": "Some CPU", "python": "3.11.9", "date": "2026-11-28"},
    )


def make(
    folder: Path,
    *,
    algos: Sequence[str] = ALGOS,
    controls: Sequence[str] = CONTROLS,
    files: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    problems: int = 30,
    tasks: Sequence[str] = ("mbpp", "validation"),
    samples: int = 4,
    failed: Mapping[str, str] | None = None,
    missing: Sequence[str] = (),
    effects: Mapping[str, float] = EFFECTS,
) -> Found:
    """Writes all of it and reads it back.

    Args:
      samples: of a problem; one is greedy, with none only bits are measured.
      failed: why, by name of a member.
      missing: names of members that have left nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_of(arms_of(algos, controls, files), seeds, tasks, samples)
    write_plan(folder, plan)
    failed = failed or {}
    for number, member in enumerate(plan.members):
        if member.name in failed:
            file = failure_file(folder, member)
            file.parent.mkdir(exist_ok=True)
            write_json(file, {"why": failed[member.name]})
            if member.command:  # it broke off
                noise = np.random.default_rng(number)
                _leave_run(run_folder(folder, member), plan, member, 0.0, noise)
                (run_folder(folder, member) / "summary.json").unlink()
                metrics = run_folder(folder, member) / "metrics.jsonl"
                begun = metrics.read_text().splitlines(keepends=True)[:7]
                metrics.write_text("".join(begun))
        elif member.name not in missing:
            _leave(folder, plan, member, number, problems, samples, effects)
    return read_found(folder)


def _leave(
    folder: Path,
    plan: Plan,
    member: Member,
    number: int,
    problems: int,
    samples: int,
    effects: Mapping[str, float],
) -> None:
    """What one member leaves when all goes well."""
    noise = np.random.default_rng(1000 + number)
    effect = effects.get(member.arm, 0.0)
    arm = plan.arm(member.arm)
    there = evaluated_folder(folder, member)
    if arm.kind == "files":
        there = Path(arm.folder)
    there.mkdir(parents=True, exist_ok=True)
    for task in plan.tasks:
        lines = _lines(task, effect, noise, problems, samples)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (there / f"{task}.jsonl").write_text(text)
        write_json(there / f"{task}.settings.json", _settings(task, samples, problems))
    agreement = 0.4 + 0.02 * noise.normal(size=HEADS)
    heads = [
        {
            "head": k,
            "agreement": float(agreement[k] / k),
            "control": 0.05 / k,
            "positions": 400,
        }
        for k in range(1, HEADS)
    ]
    write_json(there / "acceptance.json", {"heads": heads})
    if member.command:
        _leave_run(run_folder(folder, member), plan, member, effect, noise)


def _lines(
    task: str, effect: float, noise: Any, problems: int, samples: int
) -> list[dict[str, Any]]:
    hard = np.random.default_rng(7).normal(size=problems)  # alike for all
    bits = 2.0 + 0.4 * hard + effect + 0.01 * noise.normal(size=problems)
    bits += 0.005 * noise.normal()  # of the seed
    lines = []
    for i in range(problems):
        size = 40 + 3 * i
        line: dict[str, Any] = {"task_id": f"{task}/{i}"}
        if samples and task != "validation":
            solves = 1 / (1 + np.exp(1 + hard[i] + 4 * effect))
            c = int(noise.binomial(samples, solves))
            late = int(i == 3 and c < samples)
            line |= {"n": samples, "c": c, "timed_out": late, "level": "namespaces"}
            line["completions"] = []
        nll = [float(bits[i]) + 0.5 * k for k in range(HEADS)]
        heads = [
            {"nll": 20 * x, "targets": 20, "right": 8 - k, "rank": 90 + k}
            for k, x in enumerate(nll)
        ]
        line |= {"bits": float(bits[i]) * size, "bytes": size, "heads": heads}
        lines.append(line)
    return lines


def _settings(task: str, samples: int, problems: int) -> dict[str, Any]:
    return {
        "task": task,
        "source": "minis",
        "split": "test",
        "num_problems": problems,
        "form": "mbpp zero-shot",
        "prompts_digest": "ab" * 32,
        "max_tokens": 256,
        "sampling": GREEDY if samples == 1 else SAMPLING,
        "samples": samples,
        "level": "namespaces",
        "limits": {"seconds": 3},
        "contaminated": 2,
        "timed_out": 1,
        "versions": {"jax": "0.7.0"},
    }


def _leave_run(
    run: Path, plan: Plan, member: Member, effect: float, noise: Any
) -> None:
    run.mkdir(parents=True)
    rows: list[dict[str, float | int]] = []
    steps = plan.shares[member.arm].steps
    for step in range(steps + 1):
        row: dict[str, float | int] = {"step": step}
        if step:
            row |= _step_row(step, noise)
        if step % 5 == 0 or step == steps:
            fallen = BASE_NLL * np.exp(-step / 12) + 2 + effect * step / steps
            jitter = 0.01 * float(noise.normal())
            for k in range(HEADS):
                row[f"eval_nll_head_{k}"] = float(fallen) + 0.6 * k + jitter
        rows.append(row)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "metrics.jsonl").write_text(text)
    last = {x: y for x, y in rows[-1].items() if x.startswith("eval_")}
    benchmarks = {"mbpp": {"documents": 2}, "humaneval": {"documents": 0}}
    summary = {
        "run_name": member.name,
        "steps": steps,
        "seconds": 12.5 + member.seed if member.seed is not None else 12.5,
        "peak_memory_mib": 700 + int(noise.integers(50)),
        "device": "cpu",
        "versions": {"jax": "0.7.0", "python": "3.11.9"},
        "eval_after": last,
        "contamination": {"documents": 90, "benchmarks": benchmarks},
    }
    write_json(run / "summary.json", summary)


def _step_row(step: int, noise: Any) -> dict[str, float | int]:
    seconds = 4.0 if step == 1 else 0.1 + 0.01 * float(noise.random())
    return {
        "loss": 5.0 - 0.05 * step,
        "seconds": seconds,
        "tokens_per_s": 900 / seconds,
        "weight_mean": 1.0,
        "weight_min": 0.05,
        "weight_max": 3.0 - 0.01 * step,
        "weight_entropy": 6.0 - 0.01 * step,
        "weight_ess": 0.9 - 0.01 * step,
        "kept_fraction": 1.0,
    }
