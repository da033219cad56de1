"""Runs that are killed, at any moment and inside saves, end as if they had not been."""

import pytest

from benchmarks import torture
from tests import compiled

# Starts of wmtp_jax are dearer: what it compiles is read again at each.
KILLS = {"wmtp_jax": 5, "wmtp_torch_mps": 15}


@pytest.fixture(autouse=True)
def programs(tmp_path, monkeypatch):
    kept = compiled.own_copy(tmp_path / "programs")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(kept))


@pytest.mark.parametrize("package", KILLS)
def test_twenty_kills_change_nothing(package, tmp_path):
    assert_unchanged(package, KILLS[package], tmp_path, "baseline")


@pytest.mark.slow
@pytest.mark.parametrize("package", KILLS)
def test_two_hundred_kills_change_nothing(package, tmp_path):
    assert_unchanged(package, 100, tmp_path, "critic")


def assert_unchanged(package, kills, tmp_path, algo):
    row = torture.torture(package, kills, tmp_path, algo)  # which compares the ends
    assert row["kills"] == kills and min(row["save"], row["step"], row["any"]) > 0
    lost = {int(steps): times for steps, times in row["lost"].items()}
    assert sum(lost.values()) == kills
    assert max(lost) <= torture.SAVE_EVERY
