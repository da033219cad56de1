"""The report: nothing hidden, every text only text, all of it seen in a browser."""

import html
import re
from dataclasses import replace

import pytest
from scipy import stats

from shared.comparison.differences import comparisons_of
from shared.comparison.report import lines as told
from shared.comparison.report import write_report
from shared.comparison.report.records import records_of
from shared.comparison.report.tables import select
from tests.browser import open_page, with_script
from tests.comparison import report_pages
from tests.comparison.made import make
from tests.comparison.recomputed import Again
from tests.comparison.report_pages import HOSTILE, Tables, markdown_tables, plain, texts

written = report_pages.written


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
