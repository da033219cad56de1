"""What a comparison answers: no more than it has seen, and nothing left out."""

from dataclasses import replace

import pytest

from shared.comparison.answers import headlines, lines, regressions
from shared.comparison.differences import comparisons_of, pairs_of
from shared.comparison.scores import measures_of, pair, scores_of
from tests.comparison.made import make

FEW = ("ntp", "baseline", "rho1-weighted")


def said(found, **options):
    return "\n".join(lines(found, comparisons_of(found), **options))


def test_an_effect_is_told_with_its_interval_and_what_its_controls_do(tmp_path):
    found = make(
        tmp_path / "grid", algos=FEW, controls=("shuffle",), tasks=("mbpp",), samples=0
    )
    text = said(found)
    assert "Does weighting the targets help?" in text
    assert (
        "In bits per byte of mbpp, rho1-weighted is better than plain next-token "
        "training (ntp) and than its own controls (shuffle)." in text
    )
    one = next(
        x
        for x in comparisons_of(found)
        if (x.first.name, x.to) == ("rho1-weighted", "ntp")
    )
    assert one.measure.primary and one.found is not None
    of = one.found.interval
    assert -0.06 < of.low < of.value < of.high < -0.04  # an effect of -0.05 was made
    line = next(x for x in text.splitlines() if x.startswith("  rho1-weighted is bet"))
    assert "3 seeds, 30 problems; its control shuffle is not." in line
    assert f"{-of.value:.3f}" in line or f"{-of.value:.4f}" in line
    assert "No difference seen between baseline and ntp" in text
    assert "would have been seen in 8 of 10 such comparisons" in text


def test_a_control_that_does_as_well_is_told(tmp_path):
    effects = {"rho1-weighted": -0.05, "rho1-weighted+shuffle": -0.05}
    found = make(
        tmp_path / "grid",
        algos=("ntp", "rho1-weighted"),
        controls=("shuffle",),
        tasks=("mbpp",),
        samples=0,
        effects=effects,
    )
    text = said(found)
    assert "but not seen to be better than its own controls (shuffle)" in text
    assert "its control shuffle is as well" in text
    assert "weights carry information that the shuffled ones lack" in text


def test_what_is_not_there_is_named_with_its_reason(tmp_path):
    found = make(
        tmp_path / "grid",
        algos=FEW,
        controls=("shuffle",),
        tasks=("mbpp",),
        samples=0,
        failed={"rho1-weighted-0": "out of memory", "rho1-weighted-2": "out of memory"},
        missing=["ntp-1"],
    )
    text = said(found)
    assert "3 of 13 runs are not finished:" in text
    assert "rho1-weighted: 2 failed (seeds 0 and 2): out of memory" in text
    assert "ntp: 1 missing (seed 1)" in text
    assert "Contamination: 2 training documents share text with mbpp." in text
    assert (
        "rho1-weighted could not be compared with ntp in bits per byte of mbpp: "
        "rho1-weighted and ntp have finished no seed in common" in text
    )
    seeds = {(x.first.name, x.second.name): x.seeds for x in comparisons_of(found)}
    assert seeds["baseline", "ntp"] == (0, 2)
    assert seeds["untouched", "baseline"] == (0, 1, 2)


def test_one_seed_is_said_to_be_one(tmp_path):
    found = make(
        tmp_path / "grid",
        algos=FEW,
        controls=(),
        seeds=(4,),
        tasks=("mbpp",),
        samples=0,
    )
    assert "There is only 1 seed: seeds were not sampled" in said(found)


def test_nothing_at_all_is_an_answer_too(tmp_path):
    names = ["untouched", "ntp-0"]
    found = make(tmp_path / "grid", algos=("ntp",), seeds=(0,), missing=names)
    text = said(found)
    assert "Nothing is answered: no run has left a result." in text
    assert "2 of 2 runs are not finished:" in text


def test_primary_are_bits_of_problems_else_of_validation_else_pass_at_1(tmp_path):
    both = make(tmp_path / "a", algos=("ntp",), controls=(), seeds=(0,))
    named = [(x.task, x.metric, x.primary) for x in measures_of(both)]
    assert named == [
        ("mbpp", "bits_per_byte", True),
        ("validation", "bits_per_byte", False),
        ("mbpp", "pass@1", False),
        ("mbpp", "pass@2", False),
    ]
    alone = make(
        tmp_path / "b", algos=("ntp",), controls=(), seeds=(0,), tasks=("validation",)
    )
    assert [x.primary for x in measures_of(alone)] == [True]
    without = replace(
        both,
        outcomes=tuple(
            replace(
                x,
                results={
                    "mbpp": [
                        replace(y, bits=None, bytes=None) for y in x.results["mbpp"]
                    ]
                },
            )
            for x in both.outcomes
        ),
    )
    named = [(x.metric, x.primary) for x in measures_of(without)]
    assert named == [("pass@1", True), ("pass@2", False)]


def test_arms_are_paired_by_seed_and_problem(tmp_path):
    found = make(tmp_path / "grid", algos=FEW, controls=(), tasks=("mbpp",), samples=0)
    measure = measures_of(found)[0]
    first = scores_of(found, "baseline", measure)
    second = scores_of(found, "ntp", measure)
    assert first is not None and second is not None
    turned = replace(
        second,
        problems=second.problems[::-1],
        seeds=second.seeds[::-1],
        score_SN=second.score_SN[::-1, ::-1],
    )
    seeds, one, other = pair(first, turned)
    assert seeds == (0, 1, 2)
    assert (one == first.score_SN).all() and (other == second.score_SN).all()
    fewer = replace(turned, problems=turned.problems[1:])
    with pytest.raises(ValueError, match="1 problems are in the results of only one"):
        pair(first, fewer)


def test_every_algorithm_is_held_against_ntp_baseline_and_its_own_controls(tmp_path):
    found = make(tmp_path / "grid", algos=FEW, seeds=(0,), tasks=("mbpp",), samples=0)
    pairs = {(a.name, b.name, to) for a, b, to in pairs_of(found.plan.arms)}
    assert {
        ("rho1-weighted", "ntp", "ntp"),
        ("rho1-weighted", "baseline", "baseline"),
        ("rho1-weighted", "rho1-weighted+shuffle", "control"),
        ("rho1-weighted", "rho1-weighted+random", "control"),
        ("rho1-weighted+shuffle", "ntp", "ntp"),
        ("baseline", "ntp", "ntp"),
        ("untouched", "ntp", "ntp"),
    } <= pairs
    assert not any(first == "ntp" for first, _, _ in pairs)


def test_a_regression_is_shown_beyond_the_tolerance_or_it_is_none(tmp_path):
    effects = {"rho1-weighted": 0.2, "rho1-weighted+shuffle": 0.3}
    found = make(
        tmp_path / "grid",
        algos=FEW,
        controls=("shuffle",),
        tasks=("mbpp",),
        samples=0,
        effects=effects,
    )
    (line,) = regressions(found, "bits_per_byte", 0.1)
    assert line.startswith("rho1-weighted is worse than baseline by more than 0.1: 0.2")
    assert regressions(found, "bits_per_byte", 0.25) == []  # not by so much
    of = next(
        x.found.interval
        for x in comparisons_of(found)
        if x.found and (x.first.name, x.to) == ("rho1-weighted", "baseline")
    )
    inside = (of.low + of.value) / 2  # below the estimate, but not below the interval
    assert regressions(found, "bits_per_byte", inside) == []
    with pytest.raises(ValueError, match="must be of bits_per_byte, got 'bits'"):
        regressions(found, "bits", 0.1)
    with pytest.raises(ValueError, match="tolerance must be a number >= 0"):
        regressions(found, "bits_per_byte", -1.0)


def test_a_gain_is_no_regression_and_pass_at_k_is_worse_downwards(tmp_path):
    found = make(
        tmp_path / "grid",
        algos=FEW,
        controls=(),
        problems=120,
        tasks=("mbpp",),
        effects={"rho1-weighted": 0.5},
    )
    (line,) = regressions(found, "pass@1", 0.0)
    assert "points of pass@1 of mbpp" in line
    assert regressions(found, "pass@1", 0.9) == []
    better = make(tmp_path / "better", algos=FEW, controls=(), samples=0)
    assert regressions(better, "bits_per_byte", 0.0) == []


def test_a_headline_without_ntp_is_about_baseline(tmp_path):
    found = make(
        tmp_path / "grid",
        algos=("baseline", "rho1-weighted"),
        controls=(),
        tasks=("mbpp",),
        samples=0,
    )
    (line,) = headlines(found, comparisons_of(found))
    assert "rho1-weighted is better than baseline, without a control" in line
