"""The page: whole in itself, safe, readable without colour, by keys, in a browser."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest

import wmtp_jax.train
from shared.inspection.levels import (
    BOUNDS,
    DROPPED,
    INK,
    LEVELS,
    NO_TARGET,
    contrast,
    level_of,
    luminance,
)
from shared.inspection.page import page
from shared.inspection.rows import Shown, frame, told_of_run
from shared.inspection.tokens import weigh_row
from tests import browser
from tests.small import small_batch, small_config

SCREENS = ("light", "dark")
HOSTILE = "</script><script>alert(1)</script><!--&\u2028"


def a_page(algos=("rho1-tokenskip",), steps=(0, 5), texts=None):
    """A page of drawn numbers."""
    batch = small_batch(1, lengths=[[13]]).changed(np.asarray)
    rng, frames = np.random.default_rng(3), []
    texts = texts or [f"t{j} " for j in range(12)] + ["\n"]
    shown = Shown(id="one", name="one", tokens=range(13), texts=texts, note="a note")
    for step in steps:
        nll_BLK = rng.gamma(3, 1, (1, 16, 3)).astype(np.float32)
        result = {"nll_BLK": nll_BLK, "value_BL": nll_BLK[:, :, 1]}
        rows = [weigh_row(batch, 0, result, small_config(algo)) for algo in algos]
        frames.append(frame(step, {"one": rows}))
    runs = [told_of_run(algo, small_config(algo)) for algo in algos]
    return page("A <title>", "lead & all", runs, [shown], frames)


def data_of(text):
    (found,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL
    )
    return json.loads(found)


# Levels.


@pytest.mark.parametrize("screen", SCREENS)
def test_ink_can_be_read_on_every_level(screen):
    """WCAG 2, AA for text: 4.5."""
    for level in (*LEVELS, DROPPED, NO_TARGET):
        assert contrast(INK[screen], getattr(level, screen)) >= 4.5, level.name


@pytest.mark.parametrize("screen", SCREENS)
def test_levels_grow_from_the_middle(screen):
    """To both sides the lightness moves one way, by steps that can be seen."""
    lights = [luminance(getattr(level, screen)) for level in LEVELS]
    middle = len(LEVELS) // 2
    for side in (lights[middle:], lights[middle::-1]):
        steps = [(max(a, b) + 0.05) / (min(a, b) + 0.05) for a, b in pairwise(side)]
        assert min(steps) > 1.1
        ordered = sorted(side, reverse=screen == "light")
        assert side == ordered


def test_levels_meet_at_their_bounds():
    assert len(LEVELS) == len(BOUNDS) + 1 and level_of(1.0) is LEVELS[3]
    for bound, (below, above) in zip(BOUNDS, pairwise(LEVELS), strict=True):
        assert level_of(np.nextafter(bound, 0)) is below and level_of(bound) is above
    for of in ("bar", "letter", "name"):
        signs = [getattr(level, of) for level in (*LEVELS, DROPPED, NO_TARGET)]
        assert len(set(signs)) == len(signs)


# Text.


def test_a_page_needs_nothing_from_outside():
    text = a_page()
    assert set(re.findall(r"\w+://[^\"' <)]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(?:link|img|iframe)|@import|url\(|\bsrc=", text)
    assert "A &lt;title&gt;" in text and "lead &amp; all" in text


def test_text_of_an_example_stays_text():
    texts = [HOSTILE, *["x"] * 12]
    text = a_page(texts=texts)
    assert "alert" in text and text.count("</script>") == 2
    assert data_of(text)["examples"][0]["texts"] == texts


def test_names_of_runs_and_examples_stay_text():
    """A folder may have any name, and an example any id."""
    cfg, text = small_config("baseline"), ["x"] * 13
    shown = Shown(id=HOSTILE, name=HOSTILE, tokens=range(13), texts=text, note=HOSTILE)
    of = page(HOSTILE, HOSTILE, [told_of_run(HOSTILE, cfg)], [shown], ['{"step":0}'])
    assert of.count("</script>") == 2 and "<script>alert" not in of
    data = data_of(of)
    assert data["runs"][0]["name"] == data["examples"][0]["name"] == HOSTILE


def test_numbers_are_those_of_the_frames():
    data = data_of(a_page(("rho1-tokenskip", "critic")))
    assert [x["step"] for x in data["frames"]] == [0, 5]
    first, second = data["frames"][0]["of"]["one"]
    assert first["weight"][0][0] is None and second["weight"][2][:3] == [None] * 3
    assert 0 in first["weight"][0] and 0 not in second["weight"][0]
    assert {*second["numbers"]} == {"ref_nll", "reward", "value", "td_error", "score"}
    assert data["runs"][0]["bounds"] is None and data["runs"][1]["bounds"] == [0.05, 3]


# In a browser.

# Goes into the tokens as a reader without a mouse does, and tells what it finds.
KEYS = """
const told = [], here = () => document.activeElement;
const press = (key) => here().dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const tell = () => told.push(
  here().dataset.token + here().getAttribute("aria-selected"));
document.querySelector('[role=option][tabindex="0"]').focus();
for (const key of ["Home", "Right", "Right", "Left", "End", "Right"]) {
  press(key.replace(/^(Left|Right)/, "Arrow$1"));
  tell();
}
press("1");
const root = document.documentElement, PARTS = "header, form, main, .document, aside";
if (innerWidth < 600) root.style.width = "400px";
document.getElementById("table").open = true;
document.body.dataset.told = JSON.stringify({
  told, head: document.querySelector("#heads input:checked").value,
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  page: getComputedStyle(document.body).backgroundColor,
  over: Math.max(...[...document.querySelectorAll(PARTS)]
    .map((x) => x.getBoundingClientRect().right)) - root.getBoundingClientRect().right,
  stops: document.querySelectorAll('[role=option][tabindex="0"]').length,
  named: [...document.querySelectorAll("[role=option]")].every((x) => x.ariaLabel),
});
"""


@pytest.mark.parametrize(("width", "dark"), [(400, True), (1400, False)])
def test_a_page_in_a_browser(width, dark, tmp_path, whole_run):
    """A run's own page, and a reader with nothing but keys."""
    run = whole_run(wmtp_jax.train, "critic")
    file = run / "inspected" / "training.html"
    played = browser.with_script(file, KEYS, tmp_path / "page.html")
    opened = browser.open_page(played, width, dark, tmp_path, at="frame=1&token=3")
    assert not opened.console
    (told,) = re.findall(r'data-told="([^"]*)"', opened.dom)
    found = json.loads(told.replace("&quot;", '"'))
    last = 31
    steps = [0, 1, 2, 1, last, last]
    assert found["told"] == [f"{token}true" for token in steps]
    assert found["head"] == "1" and found["stops"] == 1 and found["named"]
    assert found["dark"] == dark and found["over"] <= 0
    rgb = [int(x) for x in re.findall(r"\d+", found["page"])]
    assert (max(rgb) < 64) == dark
    (frame_1,) = [x for x in data_of(file.read_text())["frames"] if x["step"] == 6]
    numbers = frame_1["of"]["validation/1"][0]
    assert opened.dom.count('role="option"') == len(numbers["weight"][1]) == last + 1
    shown = re.findall(r'aria-label="(\d+): [^"]*?\. ([^"]*)"', opened.dom)
    assert shown[0][1] == "no target" and shown[2][1].startswith("weight ")
    weight = float(re.match(r"weight ([\d.e-]+)", shown[2][1])[1])
    assert weight == pytest.approx(numbers["weight"][1][2], rel=5e-3)
    assert "step 6" in re.sub(r"<[^>]*>", " ", opened.dom)
    assert opened.screenshot.stat().st_size > 10_000


def test_two_runs_and_a_hostile_text_in_a_browser(tmp_path):
    texts = [HOSTILE, "<img src=x onerror=alert(2)>", *["x"] * 11]
    file = tmp_path / "two.html"
    file.write_text(a_page(("rho1-tokenskip", "critic"), texts=texts), "utf-8")
    opened = browser.open_page(file, 1400, False, tmp_path)
    assert not opened.console
    assert opened.dom.count('role="listbox"') == 2 and "<img" not in opened.dom
    assert opened.dom.count('role="option"') == 26
    labels = re.findall(r'aria-label="\d+: [^"]*?\. (dropped|weight)', opened.dom)
    assert labels.count("dropped") == 3  # of 12 targets of the first run
