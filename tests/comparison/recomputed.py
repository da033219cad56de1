"""The numbers of a comparison again, by loops that share no code with it."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def lines_of(file: Path) -> list[Row]:
    """The JSON lines of a file; none if it is not there."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def json_of(file: Path) -> Row:
    return json.loads(file.read_text()) if file.is_file() else {}


class Again:
    """A folder, read without any of the readers of the project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan = json_of(folder / "plan.json")
        self.kinds = {arm["name"]: arm for arm in self.plan["arms"]}

    def members(self, arm: str) -> Iterator[Row]:
        for member in self.plan["members"]:
            if member["arm"] == arm:
                yield member

    def trained(self, arm: str) -> Iterator[Row]:
        """The members whose training has come to its end."""
        for member in self.members(arm):
            if (self.folder / "runs" / member["name"] / "summary.json").is_file():
                yield member

    def results(self, member: Row, task: str) -> list[Row]:
        arm = self.kinds[member["arm"]]
        there = self.folder / "evaluated" / member["name"]
        if arm["kind"] == "files":
            there = Path(arm["folder"])
        return lines_of(there / f"{task}.jsonl")

    def metrics(self, member: Row) -> list[Row]:
        return lines_of(self.folder / "runs" / member["name"] / "metrics.jsonl")

    def values(self, member: Row, task: str, metric: str) -> dict[str, float]:
        """By problem."""
        found = {}
        for line in self.results(member, task):
            if metric == "bits_per_byte":
                found[line["task_id"]] = line["bits"] / line["bytes"]
            else:
                k, wrong = int(metric.split("@")[1]), line["n"] - line["c"]
                miss = 1.0  # of k samples drawn one by one, none is right
                for i in range(k):
                    miss *= max(0, wrong - i) / (line["n"] - i)
                found[line["task_id"]] = 1 - miss
        return found

    def by_seed(self, arm: str, task: str, metric: str) -> dict[Any, dict[str, float]]:
        """Of every member that has results."""
        held = {m["seed"]: self.values(m, task, metric) for m in self.members(arm)}
        return {seed: values for seed, values in held.items() if values}

    def pairs(self, line: Row) -> dict[Any, dict[str, float]]:
        """Differences by seed and problem, of a line of kind `difference`."""
        asked = line["task"], line["metric"]
        one, other = (self.by_seed(line[x], *asked) for x in ("first", "second"))
        found = {}
        for seed in dict.fromkeys([*one, *other]):
            a = one.get(seed, one.get(None))
            b = other.get(seed, other.get(None))
            alone = None in (*one, *other)
            if a is None or b is None or (alone and seed is None and len(one) != 1):
                continue
            if seed is None and len(one) + len(other) > 2:
                continue  # of an arm without seeds, which stands beside all others
            found[seed] = {name: a[name] - b[name] for name in a}
        return found


def mean(values: list[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def variance(values: list[float]) -> float:
    middle = mean(values)
    return sum((value - middle) ** 2 for value in values) / (len(values) - 1)


def standard_error(of: dict[Any, dict[str, float]]) -> float:
    """Of a mean over seeds and problems, each part counted as if it were the whole."""
    seeds = [mean(list(values.values())) for values in of.values()]
    names = list(next(iter(of.values())))
    problems = [mean([values[name] for values in of.values()]) for name in names]
    found = variance(problems) / len(problems)
    if len(seeds) > 1:
        found += variance(seeds) / len(seeds)
    return math.sqrt(found)


def holm(p_values: list[float]) -> list[float]:
    """Adjusted, in their order."""
    left, found, least = list(enumerate(p_values)), [0.0] * len(p_values), 0.0
    while left:
        i, p = min(left, key=lambda pair: pair[1])
        least = max(least, min(1.0, p * len(left)))
        found[i] = least
        left.remove((i, p))
    return found
