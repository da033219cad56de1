"""The report: nothing hidden, every number right, every text only text."""

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from scipy import stats

from shared.comparison.differences import comparisons_of
from shared.comparison.grid.found import read_found
from shared.comparison.report import lines as told
from shared.comparison.report import write_report
from shared.comparison.report.records import records_of
from shared.comparison.report.tables import select
from tests.browser import open_page, with_script
from tests.comparison.made import make
from tests.comparison.recomputed import (
    Again,
    holm,
    json_of,
    lines_of,
    mean,
    standard_error,
    variance,
)

HOSTILE = "<script>alert('x')</script> | `a` *b* [c](d) & \"e\" $f$"
NUMBER = re.compile(r"(-?\d+(?:\.(\d+))?)(?: ([kMGT])\b)?")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A failed and a missing run, hostile texts, and the report of all that."""
    folder = tmp_path_factory.mktemp("comparison")
    found = make(
        folder / "grid",
        controls=("shuffle",),
        files=[f"other={folder / 'other'}"],
        tasks=("mbpp",),
        failed={"critic-2": f"out of memory {HOSTILE}"},
        missing=["rho1-weighted-shuffle-1"],
    )
    plan = json.loads((found.folder / "plan.json").read_text())
    plan |= {"model": HOSTILE, "data": HOSTILE, "options": [HOSTILE]}
    plan["machine"][HOSTILE] = HOSTILE
    for arm in plan["arms"]:
        arm["name"] = HOSTILE if arm["name"] == "other" else arm["name"]
    for member in plan["members"]:
        member["arm"] = HOSTILE if member["arm"] == "other" else member["arm"]
        member["command"] = [*member["command"], HOSTILE] if member["command"] else []
    (found.folder / "plan.json").write_text(json.dumps(plan))
    plots = found.folder / "plots"
    plots.mkdir()
    (plots / "of-an-older-report.png").write_bytes(b"")
    found = read_found(found.folder)
    write_report(found)
    return found


def texts(found):
    names = ("report.html", "report.md")
    return [(found.folder / name).read_text("utf-8") for name in names]


class Tables(HTMLParser):
    """Rows of cells of every table of a page, by its id."""

    def __init__(self, page):
        super().__init__()
        self.found, self._cell = {}, None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self._rows = self.found.setdefault(dict(attrs)["id"], [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._rows[-1].append(self._cell.strip())
            self._cell = None


def plain(cell):
    """A cell of Markdown without its escapes."""
    return re.sub(r"\\(.)", r"\1", cell).strip()


def markdown_tables(text):
    """Rows of cells of every table, in their order."""
    tables, before = [], ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                tables.append([])
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            tables[-1].append([plain(cell) for cell in cells])
        before = line
    return [[rows[0], *rows[2:]] for rows in tables]


def test_nothing_is_hidden(written):
    for text in texts(written):
        said = plain(html.unescape(text))
        for arm in written.plan.arms:
            assert arm.name in said
        for member in written.plan.members:
            assert member.name in said
        assert f"critic: 1 failed (seed 2): out of memory {HOSTILE}" in said
        assert "1 missing (seed 1)" in text
        assert "2 of 20 runs are not finished" in text
    runs = Tables(texts(written)[0]).found["runs"]
    states = {row[0]: row[3:5] for row in runs[1:]}
    assert states["critic-2"] == ["failed", f"out of memory {HOSTILE}"]
    assert states["rho1-weighted-shuffle-1"] == ["missing", "-"]


def test_both_reports_have_the_same_tables(written):
    page, text = texts(written)
    assert list(Tables(page).found.values()) == markdown_tables(text)


def test_texts_of_others_stay_texts(written):
    page, text = texts(written)
    assert not re.search(r"(?<!\\)<script", text) and HOSTILE in plain(text)
    for rows in markdown_tables(text):
        assert len({len(row) for row in rows}) == 1
    assert HOSTILE in {row[0] for row in Tables(page).found["arms"]}


def test_files_of_an_older_report_are_gone_and_none_is_half_written(written):
    assert not (written.folder / "plots" / "of-an-older-report.png").exists()
    assert not [x for x in written.folder.rglob("*.tmp")]


def test_plots_are_files_that_markdown_shows_and_pictures_in_the_page(written):
    page, text = texts(written)
    shown = re.findall(r"!\[[^\n]*\]\((plots/\S+\.png) ", text)
    there = sorted(f"plots/{x.name}" for x in (written.folder / "plots").iterdir())
    assert sorted(shown) == there and len(there) > 15
    assert page.count("<svg") == len(there)
    assert len(re.findall(r'<svg role="img" aria-label="[^"]+"', page)) == len(there)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for used in re.findall(r"url\(#([^)]+)\)", page):
        assert used in ids


def test_the_page_needs_no_other_file(written):
    page = texts(written)[0].replace("http://www.w3.org/", "")
    assert "<script" not in page  # though some texts hold one
    assert "http" not in page and "@import" not in page
    assert not re.search(r"<(?:script|img|iframe|object)|\bsrc=", page)


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
            assert 1.5 < half / standard_error(of) < 14 or line["metric"] != BITS
            continue
        t = stats.t.ppf(0.975, len(values[0]) - 1)
        error = (variance(values[0]) / len(values[0])) ** 0.5
        assert half == pytest.approx(t * error, rel=1e-6)
    arms = {(line["arm"], line["metric"]) for line in held}
    assert len(arms) == 3 * len(written.plan.arms)


BITS = "bits_per_byte"


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


# Other comparisons.


def test_one_seed_of_greedy_samples(tmp_path):
    found = make(
        tmp_path / "grid",
        algos=("ntp", "rho1-weighted"),
        controls=(),
        seeds=(0,),
        tasks=("mbpp",),
        samples=1,
    )
    comparisons = comparisons_of(found)
    records = records_of(found, comparisons)
    (line,) = select(records, kind="difference", metric="pass@1", first="rho1-weighted")
    (of,) = Again(found.folder).pairs(line).values()
    one, other = (sum(1 for x in of.values() if x == sign) for sign in (1, -1))
    p = stats.binomtest(one, one + other).pvalue if one + other else 1.0
    assert line["mcnemar"] == pytest.approx(p)
    score = select(records, kind="score", metric="pass@1")[0]
    right = round(score["value"] * 30)
    wilson = stats.binomtest(right, 30).proportion_ci(method="wilson")
    assert [score["low"], score["high"]] == pytest.approx([wilson.low, wilson.high])


def test_everything_missing(tmp_path):
    names = ["untouched", "ntp-0", "critic-0", "critic-shuffle-0"]
    found = make(
        tmp_path / "grid",
        algos=("ntp", "critic"),
        controls=("shuffle",),
        seeds=(0,),
        samples=0,
        missing=names,
    )
    write_report(found)
    for text in texts(found):
        assert "Nothing is answered" in text and "4 of 4 runs are not finished" in text
        assert all(name in text for name in names)


def test_an_arm_of_other_problems_is_not_compared_and_says_so(tmp_path):
    found = make(
        tmp_path / "grid",
        algos=("ntp", "baseline"),
        controls=(),
        seeds=(0, 1),
        tasks=("mbpp",),
        samples=0,
    )
    outcomes = [
        replace(x, results={"mbpp": x.results["mbpp"][1:]})
        if x.member.name in ("baseline-0", "ntp-1")
        else x
        for x in found.outcomes
    ]
    found = replace(found, outcomes=tuple(outcomes))
    one = comparisons_of(found)[-1]
    assert one.verdict == "not compared"
    text = "\n".join(told(found))
    assert "could not be compared with ntp" in text
    assert "ntp-1 left out, of other problems than the first run of ntp" in text


# In a browser.

MEASURED = """
addEventListener('load', () => {
  const page = document.documentElement;
  const hidden = [...document.querySelectorAll('table, svg')].filter(
    x => !x.getClientRects().length || x.getBoundingClientRect().width < 100);
  const text = [...document.querySelectorAll('svg text')].map(
    x => x.getBoundingClientRect().height).filter(x => x > 0);
  parent.postMessage(['measured', page.clientWidth, page.scrollWidth,
    hidden.length, Math.min(...text), getComputedStyle(document.body).backgroundColor,
    getComputedStyle(document.querySelector('svg text')).fill].join(';'), '*');
});
"""
# A window may not be as narrow as a telephone; a frame in it may.
FRAME = """<!DOCTYPE html><meta name="color-scheme" content="light dark">
<body style="margin: 0"><script>
addEventListener('message', said => { document.title = said.data; });
</script>
<iframe src="PAGE" style="border: 0; width: WIDTHpx; height: 860px"></iframe>"""


@pytest.mark.parametrize("width, dark", [(400, True), (1400, False)])
def test_a_browser_shows_it_all(written, tmp_path, width, dark):
    page = with_script(written.folder / "report.html", MEASURED, tmp_path / "page.html")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.replace("PAGE", page.name).replace("WIDTH", str(width)))
    opened = open_page(frame, max(width, 600), dark, tmp_path)
    assert opened.console == []
    said = re.search(r"<title>measured;([^<]*)</title>", opened.dom)
    assert said, opened.dom[:500]
    inside, scrolled, hidden, smallest, page_colour, ink = said[1].split(";")
    assert int(inside) == int(scrolled) == width  # tables scroll, the page does not
    assert int(hidden) == 0
    assert float(smallest) > 9  # pixels of the smallest text in a plot
    light = [sum(map(int, re.findall(r"\d+", x)[:3])) for x in (page_colour, ink)]
    assert (light[0] < 150 and light[1] > 600) if dark else light[0] > 700 > light[1]
