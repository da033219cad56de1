"""What a comparison's folder holds: its plan, and what every run has left so far.

    TO/plan.json                       arms, members, budget: `Plan`
    TO/runs/NAME/                      the runs, with the caches that they share
    TO/evaluated/NAME/TASK.jsonl       per problem, with the settings beside
    TO/evaluated/NAME/acceptance.json  how often its heads agree with it
    TO/failed/NAME.json                why a run is not there

The report is made from these files alone.
"""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from shared.comparison.grid.arms import Arm
from shared.evaluation.results.kept import read_results, read_settings
from shared.evaluation.results.of_problems import ProblemResult
from shared.files import write_json
from shared.json_text import read_object
from shared.messages import first_line
from shared.tracking.tracking import Metrics, read_metrics

PLAN = "plan.json"
# Of members and tasks, which are names of files and folders.
NAME = re.compile(r"(?!\.)[\w.+-]{1,200}")
State = Literal["finished", "failed", "missing"]
Kind = Literal["steps", "tokens", "flops", "seconds"]
Preparing = Literal["counts", "told"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every trained arm may spend.

    Attributes:
      kind: what is counted: `steps`, `tokens`, `flops` or `seconds`.
      amount: of it.
      preparing: whether what comes before training (the reference, the passes of frozen
        models, the value head's first stage) is taken off it (`counts`) or only told
        (`told`).
    """

    kind: Kind
    amount: float
    preparing: Preparing


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What training takes, of a step or of all that comes before the steps.

    Attributes:
      steps: updates of a model; those of a value head alone are none.
      tokens: real tokens of those updates.
      flops: of the products that are needed, passes without updates among them.
      seconds: if that was measured.
    """

    steps: float
    tokens: float
    flops: float
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Share:
    """What an arm makes of the budget.

    Attributes:
      steps: that it is trained for.
      step, before: cost of one of them, and of what comes before the first.
    """

    steps: int
    step: Cost
    before: Cost


@dataclass(frozen=True, kw_only=True)
class Member:
    """One run of an arm.

    Attributes:
      name: of its folders.
      seed: None where an arm has one run for all seeds.
      model: what is evaluated: a run of this comparison, or what the user has named.
      command: the module that trains it and its arguments; empty where nothing is
        trained.
      evaluated: folder of its results in `evaluated`; empty: as its name.
    """

    arm: str
    name: str
    seed: int | None = None
    model: str = ""
    command: tuple[str, ...] = ()
    evaluated: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is compared, in the order in which it runs.

    Attributes:
      backend: package of the trainer.
      model, data: as the user has named them.
      options: of training, of every arm.
      evaluate: options of the evaluation.
      tasks: names of the files of results.
      ks: of pass@k.
      shares: by arm.
      machine: processor, versions, date.
    """

    backend: str
    model: str
    data: str
    options: tuple[str, ...]
    evaluate: tuple[str, ...]
    tasks: tuple[str, ...]
    ks: tuple[int, ...]
    budget: Budget
    arms: tuple[Arm, ...]
    shares: dict[str, Share]
    members: tuple[Member, ...]
    machine: dict[str, str]

    def arm(self, name: str) -> Arm:
        """The arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a member has left.

    Attributes:
      state: `missing` until it has all that was asked of it.
      why: it failed.
      summary, metrics: of its run; empty where nothing was trained.
      results, settings: of each task that was evaluated.
      acceptance: of each prediction head k >= 1: `agreement`, `control`, `positions`.
    """

    member: Member
    state: State
    why: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: list[Metrics] = field(default_factory=list)
    results: dict[str, list[ProblemResult]] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    acceptance: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A comparison as far as it has come.

    Attributes:
      outcomes: one of each member, in the order of the plan.
    """

    folder: Path
    plan: Plan
    outcomes: tuple[Outcome, ...]

    def of(self, arm: str) -> list[Outcome]:
        """The outcomes of an arm, by seed."""
        return [x for x in self.outcomes if x.member.arm == arm]


def run_folder(folder: Path, member: Member) -> Path:
    """Where a member is trained."""
    return folder / "runs" / member.name


def evaluated_folder(folder: Path, member: Member) -> Path:
    """Where its results are."""
    return folder / "evaluated" / (member.evaluated or member.name)


def is_trained(folder: Path, member: Member) -> bool:
    """Whether its run has come to its end; one that was told to stop has no summary."""
    summary = run_folder(folder, member) / "summary.json"
    return not member.command or summary.is_file()


def failure_file(folder: Path, member: Member) -> Path:
    """Where it says why it is not there."""
    return folder / "failed" / f"{member.name}.json"


def write_plan(folder: Path, plan: Plan) -> None:
    """Writes `plan.json`."""
    write_json(folder / PLAN, asdict(plan))


def read_plan(folder: Path) -> Plan:
    """The plan of a comparison's folder.

    Raises:
      ValueError: if there is none that can be read.
    """
    try:
        held = read_object(folder / PLAN)
        shares = {
            name: Share(
                steps=of["steps"],
                step=Cost(**of["step"]),
                before=Cost(**of["before"]),
            )
            for name, of in held.pop("shares").items()
        }
        for name in ("options", "evaluate", "tasks", "ks"):
            held[name] = tuple(held[name])
        budget = Budget(**held.pop("budget"))
        arms = tuple(
            Arm(**of | {"options": tuple(of["options"])}) for of in held.pop("arms")
        )
        members = tuple(
            Member(**of | {"command": tuple(of["command"])})
            for of in held.pop("members")
        )
        plan = Plan(budget=budget, arms=arms, members=members, shares=shares, **held)
        _check_names(plan)
        return plan
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"the folder of a comparison must hold a {PLAN} of compare, got "
            f"{folder / PLAN}: {first_line(error)[:300]}"
        ) from None


def _check_names(plan: Plan) -> None:
    """Whoever sends a plan chooses no file outside its folder, and no arm is missing.

    The folders of `files` arms are the user's own, wherever they lie.
    """
    names = [x.name for x in plan.members] + [x.evaluated for x in plan.members]
    for name in (*filter(None, names), *plan.tasks):
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r:.100} is no plain name")
    for member in plan.members:
        if member.arm not in {arm.name for arm in plan.arms}:
            raise ValueError(f"{member.arm!r:.100} is no arm")


def read_found(folder: Path) -> Found:
    """All that a comparison's folder holds.

    Raises:
      ValueError: if a file of it cannot be read.
    """
    plan = read_plan(folder)
    outcomes = tuple(read_outcome(folder, plan, member) for member in plan.members)
    return Found(folder=folder, plan=plan, outcomes=outcomes)


def read_outcome(folder: Path, plan: Plan, member: Member) -> Outcome:
    """What one member has left."""
    run, there = run_folder(folder, member), evaluated_folder(folder, member)
    arm = plan.arm(member.arm)
    if arm.kind == "files":
        there = Path(arm.folder)
    held: dict[str, Any] = {}
    if member.command and run.is_dir():
        held["summary"] = _json(run / "summary.json")
        if (run / "metrics.jsonl").is_file():
            held["metrics"] = read_metrics(run / "metrics.jsonl")
    files = {task: there / f"{task}.jsonl" for task in plan.tasks}
    files = {task: file for task, file in files.items() if file.is_file()}
    held["results"] = {task: read_results(file) for task, file in files.items()}
    held["settings"] = {task: read_settings(file) for task, file in files.items()}
    held["acceptance"] = _json(there / "acceptance.json").get("heads", [])
    state: State = "missing"
    failure = _json(failure_file(folder, member))
    if is_trained(folder, member) and len(files) == len(plan.tasks):
        state = "finished"
    elif failure:
        state = "failed"
    why = str(failure.get("why", "")) if state == "failed" else ""
    return Outcome(member=member, state=state, why=why, **held)


def _json(file: Path) -> dict[str, Any]:
    """The object of a file; empty where it is not there."""
    return read_object(file) if file.is_file() else {}
