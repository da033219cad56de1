import pytest

from shared.algorithms import ALGORITHMS
from shared.comparison.grid.arms import arms_of


def test_each_algorithm_with_scores_has_its_own_controls():
    arms = arms_of(["ntp", *ALGORITHMS], ["shuffle", "random"])
    names = [arm.name for arm in arms]
    assert names[:3] == ["untouched", "ntp", "baseline"]
    for algo, row in ALGORITHMS.items():
        controls = [arm for arm in arms if arm.of == algo]
        scored = row.rule != "uniform"
        assert [x.control for x in controls] == ["shuffle", "random"] * scored
        for arm in controls:
            assert arm.options[:2] == ("--algo", algo)
            assert arm.options[2:] == ("--weighting.control", arm.control)
    assert all(arm.doc for arm in arms)


def test_files_of_another_tool_are_an_arm():
    arm = arms_of(["ntp"], [], ["other=/there"])[-1]
    assert (arm.name, arm.kind, arm.folder) == ("other", "files", "/there")


@pytest.mark.parametrize(
    "algos, controls, files, said",
    [
        (["nothing"], [], [], "--algos must be of ntp, baseline"),
        (["ntp", "ntp"], [], [], "--algos must name each once, got ntp,ntp"),
        (["ntp"], ["noise"], [], "--controls must be of shuffle, random"),
        (["ntp"], [], ["x"], "--files must be NAME=FOLDER, got 'x'"),
        (["ntp"], [], ["../x=y"], "--files must be NAME=FOLDER, got '../x=y'"),
        (["ntp"], [], ["ntp=y"], "--files must name other arms than these"),
    ],
)
def test_wrong_names_are_told(algos, controls, files, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        arms_of(algos, controls, files)
