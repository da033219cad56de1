"""What is said of families, and how often it is wrong."""

import numpy as np
import pytest

from shared.comparison.statistics.differences import difference
from shared.comparison.statistics.paired_tests import holm
from shared.comparison.statistics.power import smallest_effect
from shared.comparison.statistics.verdicts import verdicts
from tests.cases import shorter
from tests.comparison.statistics.simulated import wrong_families

RNG = np.random.default_rng(0)
NOISE_SN = RNG.normal(0, 0.1, (3, 100))


def shifted(by, lower_is_better=False):
    return difference(
        NOISE_SN + RNG.normal(by, 0.1, (3, 100)),
        NOISE_SN,
        lower_is_better=lower_is_better,
    )


def test_better_and_worse_follow_the_direction():
    family = {"up": shifted(1), "down": shifted(-1), "same": shifted(0)}
    found = verdicts(family)
    assert list(found) == ["up", "down", "same"]
    words = [one.word for one in found.values()]
    assert words == ["better", "worse", "no difference seen"]
    found = verdicts({"up": shifted(1, True), "down": shifted(-1, True)})
    assert [one.word for one in found.values()] == ["worse", "better"]


def test_p_is_holms_and_smallest_that_of_the_strictest_level():
    family = {"a": shifted(0.02), "b": shifted(0.03), "c": shifted(0)}
    found = verdicts(family)
    assert [one.p for one in found.values()] == holm([x.p for x in family.values()])
    for name, one in found.items():
        assert one.smallest == smallest_effect(family[name].spread, 0.05 / 3)
        assert one.smallest > family[name].smallest
    assert verdicts({}) == {}


def test_alpha_is_checked():
    with pytest.raises(ValueError, match="alpha must be in"):
        verdicts({}, alpha=1.0)


@pytest.mark.parametrize("seeds", shorter([3, 6], [3]))
def test_families_without_a_difference_say_so(seeds):
    better, worse = wrong_families(seeds, 200, arm_part=0.3)
    # 19 of 200 and more are seen in 1 of 200 tests where it is 5 %.
    assert better + worse < 19 / 200


@pytest.mark.slow
@pytest.mark.parametrize("arm_part", [0, 0.3])
@pytest.mark.parametrize("seeds", [3, 6])
def test_at_most_one_family_in_twenty_is_wrong(seeds, arm_part, capsys):
    better, worse = wrong_families(seeds, 2000, arm_part)
    with capsys.disabled():
        print(f"\nwrong | {seeds} | {arm_part} | {better:.2%} | {worse:.2%}")
    assert better <= 0.05 and worse <= 0.05
    assert better + worse <= 0.05 + 0.01  # two standard deviations of 2000
