"""The report: every number is one that the files give."""

import re

import pytest
from scipy import stats

from tests.comparison import report_pages
from tests.comparison.recomputed import (
    Again,
    holm,
    json_of,
    lines_of,
    mean,
    standard_error,
    variance,
)
from tests.comparison.report_pages import Tables, texts

NUMBER = re.compile(r"(-?\d+(?:\.(\d+))?)(?: ([kMGT])\b)?")
BITS = "bits_per_byte"
written = report_pages.written

# Every number of results.jsonl again.


def lines(found, kind):
    held = lines_of(found.folder / "results.jsonl")
    return [line for line in held if line["kind"] == kind]


def test_scores_are_right(written):
    again = Again(written.folder)
    held = lines(written, "score")
    for line in held:
        by_seed = again.by_seed(line["arm"], line["task"], line["metric"])
        whole = line["seeds"] > 1
        of = by_seed if whole else {line["seed"]: by_seed[line["seed"]]}
        values = [list(x.values()) for x in of.values()]
        assert line["value"] == pytest.approx(mean([mean(x) for x in values]))
        assert line["problems"] == len(values[0]) and line["seeds"] == len(values)
        half = (line["high"] - line["low"]) / 2
        if whole:
            # Between the normal quantile, 1.96, and Student's t of two seeds, 12.7, and
            # what the bootstrap of few problems is off by.
            assert 1.5 < half / standard_error(of) < 14 or line["metric"] != BITS
            continue
        t = stats.t.ppf(0.975, len(values[0]) - 1)
        error = (variance(values[0]) / len(values[0])) ** 0.5
        assert half == pytest.approx(t * error, rel=1e-6)
    arms = {(line["arm"], line["metric"]) for line in held}
    assert len(arms) == 3 * len(written.plan.arms)


def test_differences_are_right(written):
    again = Again(written.folder)
    held = lines(written, "difference")
    for line in held:
        pairs = again.pairs(line)
        good = -1 if line["metric"] == BITS else 1
        assert line["seeds"] == list(pairs)
        value = mean([mean(list(x.values())) for x in pairs.values()])
        assert line["value"] == pytest.approx(value, abs=1e-12)
        names = list(next(iter(pairs.values())))
        means = [good * mean([x[name] for x in pairs.values()]) for name in names]
        wins = sum(1 for x in means if x > 1e-12)
        losses = sum(1 for x in means if x < -1e-12)
        ties = len(names) - wins - losses
        assert [line["win"], line["tie"], line["loss"]] == [wins, ties, losses]
        assert line["better"] == pytest.approx((wins + ties / 2) / len(names))
        assert line["better_low"] - 1e-9 <= line["better"]
        assert line["better"] <= line["better_high"] + 1e-9
        assert line["problems"] == len(names)
        assert line["low"] <= line["value"] <= line["high"]
        assert (line["p"] < 0.05) == (line["low"] > 0 or line["high"] < 0)
        if line["metric"] == BITS:
            half = (line["high"] - line["low"]) / 2
            assert 1 < half / standard_error(pairs) < 14
        assert line["smallest"] is None or line["smallest"] > 0
        assert line["mcnemar"] is None
        differ = [x for x in means if abs(x) > 1e-12]
        p = float(stats.wilcoxon(differ).pvalue)
        assert line["wilcoxon"] == pytest.approx(p)
        assert line["over_seeds"] is None and "6 seeds" in line["why_no_over_seeds"]
        said = "no difference seen"
        if line["p_holm"] < 0.05:
            said = "better" if good * line["value"] > 0 else "worse"
        assert line["verdict"] == said
    for primary in (True, False):
        family = [x for x in held if x["primary"] == primary]
        adjusted = holm([x["p"] for x in family])
        assert [x["p_holm"] for x in family] == pytest.approx(adjusted)
    assert {x["verdict"] for x in held} >= {"better", "worse", "no difference seen"}


def test_runs_costs_and_weights_are_right(written):
    again = Again(written.folder)
    last, took = {}, {}
    for line, member in zip(lines(written, "run"), again.plan["members"], strict=True):
        run = written.folder / "runs" / member["name"]
        summary, rows = json_of(run / "summary.json"), again.metrics(member)
        assert line["name"] == member["name"]
        for name in ("steps", "seconds", "peak_memory_mib", "device"):
            assert line[name] == summary.get(name)
        seconds = sorted(row["seconds"] for row in rows[2:])
        middle = len(seconds) // 2
        if rows:
            even = len(seconds) % 2 == 0
            pair = seconds[middle - 1 : middle + 1] if even else [seconds[middle]]
            assert line["seconds_per_step"] == pytest.approx(mean(pair))
            nlls = [row["eval_nll_head_0"] for row in rows if "eval_nll_head_0" in row]
            assert line["validation_nll"] == nlls[-1]
            last[member["arm"], member["seed"]] = nlls[-1]
            took[member["name"]] = line["seconds_per_step"]
    for line in lines(written, "cost"):
        members = list(again.trained(line["arm"]))
        of = [took[x["name"]] for x in members]
        assert line["seconds_per_step"] == pytest.approx(mean(of))
        nlls = [last[x["arm"], x["seed"]] for x in members]
        assert line["validation_nll"] == pytest.approx(mean(nlls))
        share = again.plan["shares"][line["arm"]]
        assert line["steps"] == share["steps"]
        for name in ("steps", "tokens", "flops", "seconds"):
            assert line[f"before_{name}"] == share["before"][name]
        reached = []
        for x in members:
            aim = last["baseline", x["seed"]]
            steps = [
                row["step"]
                for row in again.metrics(x)
                if row.get("eval_nll_head_0", 1e9) <= aim
            ]
            reached += steps[:1]
        assert [line["reached"], line["aimed"]] == [len(reached), len(members)]
        assert line["steps_to_baseline"] == (mean(reached) if reached else None)
    for line in lines(written, "weights"):
        rows = [row for x in again.trained(line["arm"]) for row in again.metrics(x)[1:]]
        for name in ("weight_min", "weight_max", "weight_entropy", "weight_ess"):
            assert line[name] == pytest.approx(mean([row[name] for row in rows]))


def test_heads_and_curves_are_right(written):
    again = Again(written.folder)
    for line in lines(written, "head"):
        members = list(again.members(line["arm"]))
        if line["task"] is None:
            there = [
                json_of(written.folder / "evaluated" / x["name"] / "acceptance.json")
                or json_of(written.folder.parent / "other" / "acceptance.json")
                for x in members
                if again.results(x, "mbpp")
            ]
            of = [x["heads"][line["head"] - 1] for x in there]
            for name in ("agreement", "control"):
                assert line[name] == pytest.approx(mean([x[name] for x in of]))
            assert line["positions"] == sum(x["positions"] for x in of)
            continue
        nlls = []
        for x in members:
            heads = [y["heads"][line["head"]] for y in again.results(x, line["task"])]
            if heads:
                targets = sum(y["targets"] for y in heads)
                nlls.append(sum(y["nll"] for y in heads) / targets)
        assert line["nll"] == pytest.approx(mean(nlls)) and line["seeds"] == len(nlls)
    for line in lines(written, "curve"):
        before = again.plan["shares"][line["arm"]]["before"]
        values, tokens, seconds = [], [], []
        for x in again.trained(line["arm"]):
            rows = [y for y in again.metrics(x) if y["step"] <= line["steps"]]
            values.append(rows[-1]["eval_nll_head_0"])
            took = [y.get("seconds", 0.0) for y in rows]
            seconds.append(before["seconds"] + sum(took))
            tokens.append(before["tokens"] + 900 * (len(rows) - 1))
        assert line["mean"] == pytest.approx(mean(values))
        assert [line["lowest"], line["highest"]] == [min(values), max(values)]
        assert line["tokens"] == pytest.approx(mean(tokens))
        assert line["seconds"] == pytest.approx(mean(seconds))


# Every number of a table is one of them.


def numbers_in(value):
    """All numbers in records, at any depth; lengths of lists count as numbers."""
    if isinstance(value, dict):
        return [x for y in value.values() for x in numbers_in(y)]
    if isinstance(value, list):
        return [len(value), *(x for y in value for x in numbers_in(y))]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return [float(value)] if is_number else []


def is_one_of(found, pool):
    """Whether a number as it is written is one of the pool, rounded."""
    text, digits, power = found
    scale = 1000 ** (" kMGT".index(power) if power else 0)
    value = float(text) * scale
    least = 0.5 * 10 ** -len(digits or "") * scale
    if power:
        least = 0.005 * abs(value)  # three digits
    return any(
        abs(value - sign * unit * x) <= least * (1 + 1e-9) + 1e-12
        for x in pool
        for unit in (1, 100)
        for sign in (1, -1)
    )


def test_every_number_of_the_tables_is_in_results(written):
    records = lines_of(written.folder / "results.jsonl")
    tables = Tables(texts(written)[0]).found
    checked = 0
    for name, (_, *rows) in tables.items():
        if name in ("setting", "arms", "tasks"):
            continue
        for row in rows:
            own = [x for x in records if belongs(x, name, row)]
            pool = [x for record in own for x in numbers_in(record)] + [0.0]
            pool.append(sum(1 for x in own if x.get("seeds") == 1))
            words = set(filter(None, (x.get("arm") for x in records)))
            for cell in row[1:]:
                if cell in words or (name == "original" and re.search("[~-]", cell)):
                    continue  # a name, or a number of the original's guide
                for found in NUMBER.findall(cell):
                    if cell == "< 0.001":
                        continue
                    assert is_one_of(found, pool), (name, row, found)
                    checked += 1
    assert checked > 800


def belongs(record, table, row):
    """Whether a line of results is what a row of a table is made of."""
    kind, _, which = table.partition("-")
    if kind in ("scores", "differences"):
        metric = "".join(x if x.isalnum() else "-" for x in str(record.get("metric")))
        if which != f"{record.get('task')}-{metric}":
            return False
    if kind == "scores":
        return record["kind"] == "score" and record["arm"] == row[0]
    if kind == "differences":
        names = record.get("first"), record.get("second")
        return record["kind"] == "difference" and names == (row[0], row[1])
    if kind == "runs":
        return record["kind"] == "run" and record["name"] == row[0]
    kinds = {"costs": "cost", "original": "cost", "weights": "weights", "heads": "head"}
    return record["kind"] == kinds[kind] and record["arm"] == row[0]
