"""The signals kept with a run: exact, a whole folder or none, never trusted."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from shared.signals import cache, kept
from shared.signals.kept import Signals, copy_signals
from tests.states import LENGTHS, assert_same_signals, random_signals, splits_of
from tests.trees import refuses


def keep_signals(folder, signals, lengths=LENGTHS):
    kept.keep_signals(folder, signals, splits_of(lengths))


def read_signals(folder, lengths, names=("ref_nll", "reward")):
    return kept.read_signals(folder, names, splits_of(lengths))


@pytest.mark.parametrize(
    "lengths", [LENGTHS, {"train": [1], "validation": []}, {"train": [2]}]
)
def test_round_trip_is_exact(tmp_path, lengths):
    right = random_signals(lengths)
    keep_signals(tmp_path / "signals", right, lengths)
    assert_same_signals(read_signals(tmp_path / "signals", lengths), right)
    assert [p.name for p in tmp_path.iterdir()] == ["signals"]
    names = {
        f"{what}-{of}.safetensors" for what in ("ref_nll", "reward") for of in lengths
    }
    assert {p.name for p in (tmp_path / "signals").iterdir()} == names | {
        "signals.json"
    }


def test_only_the_columns_that_are_there_are_kept_and_those_asked_for_read(tmp_path):
    right = random_signals()
    nll = replace(right, columns={"ref_nll": right.columns["ref_nll"]})
    keep_signals(tmp_path / "signals", nll)
    assert not list((tmp_path / "signals").glob("reward*"))
    refuses(lambda: read_signals(tmp_path / "signals", LENGTHS), "reward-train")
    found = read_signals(tmp_path / "signals", LENGTHS, ("ref_nll",))
    assert_same_signals(found, nll)


def test_files_made_before_columns_had_names_are_read(tmp_path):
    """Every kind was stored as `ref_nll`, and the words were two keys of their own."""
    right, folder = random_signals(), tmp_path / "signals"
    keep_signals(folder, right)
    for name, lengths in LENGTHS.items():
        flat = np.concatenate(right.columns["reward"][name])
        offsets = np.arange(len(lengths) + 1)
        digest = cache._content_digest(flat, offsets)
        safetensors.numpy.save_file(
            {"ref_nll": flat, "offsets": offsets},
            folder / f"reward-{name}.safetensors",
            {"key": f"reward-{name}", "sha256": digest},
        )
    words = {"reference": "a", "reward_model": "b", "reward_moments": [0.0, 1.0]}
    (folder / "signals.json").write_text(json.dumps(words))
    sources = {"reference": "a", "reward": "b"}
    right = replace(right, sources=sources)
    assert_same_signals(read_signals(folder, LENGTHS), right)
    (folder / "signals.json").write_text(json.dumps(words | {"reward_model": 3}))
    refuses(lambda: read_signals(folder, LENGTHS), "reward_model", "a sentence or null")


def test_absent_is_none_and_a_file_in_its_place_is_not(tmp_path):
    assert read_signals(tmp_path / "signals", LENGTHS) is None
    (tmp_path / "signals").touch()
    refuses(lambda: read_signals(tmp_path / "signals", LENGTHS), "signals.json")


@pytest.mark.parametrize("name", ["ref_nll-train.safetensors", "signals.json"])
def test_a_file_that_is_missing(tmp_path, name):
    keep_signals(tmp_path / "signals", random_signals())
    (tmp_path / "signals" / name).unlink()
    refuses(lambda: read_signals(tmp_path / "signals", LENGTHS), name, "No such file")


def test_a_flipped_bit_is_found(tmp_path):
    keep_signals(tmp_path / "signals", random_signals())
    file = tmp_path / "signals" / "reward-train.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    refuses(lambda: read_signals(tmp_path / "signals", LENGTHS), str(file), "digest")
    file.write_bytes(content[:20])
    refuses(lambda: read_signals(tmp_path / "signals", LENGTHS), str(file))


def test_files_of_other_documents_or_in_another_place(tmp_path):
    folder = tmp_path / "signals"
    keep_signals(folder, random_signals())
    other = LENGTHS | {"validation": [6]}
    refuses(lambda: read_signals(folder, other), "ref_nll-validation", "other lengths")
    (folder / "ref_nll-train.safetensors").replace(folder / "reward-train.safetensors")
    (folder / "reward-validation.safetensors").replace(
        folder / "ref_nll-train.safetensors"
    )
    refuses(lambda: read_signals(folder, LENGTHS), "must hold ref_nll and offsets")


def test_numbers_that_are_not_finite(tmp_path):
    bad = (np.array([0, np.nan], np.float32),)
    signals = Signals({}, {"ref_nll": {"train": bad}})
    refuses(lambda: keep_signals(tmp_path / "signals", signals), "finite", "ref_nll")
    assert not list(tmp_path.iterdir())
    # A foreign file may hold them under a right digest.
    keep_signals(tmp_path / "signals", random_signals({"train": [2]}), {"train": [2]})
    flat, offsets = bad[0], np.array([0, 2])
    digest = cache._content_digest(flat, offsets)
    safetensors.numpy.save_file(
        {"ref_nll": flat, "offsets": offsets},
        tmp_path / "signals" / "ref_nll-train.safetensors",
        {"key": "ref_nll-train", "sha256": digest},
    )
    refuses(lambda: read_signals(tmp_path / "signals", {"train": [2]}), "finite")


@pytest.mark.parametrize("value", [3, ["a"], None, {"reference": 3}])
def test_words_that_are_none(tmp_path, value):
    keep_signals(tmp_path / "signals", random_signals())
    file = tmp_path / "signals" / "signals.json"
    file.write_text(json.dumps({"sources": value}))
    refuses(lambda: read_signals(tmp_path / "signals", LENGTHS), "sources", str(file))
    file.write_text("{}")
    refuses(lambda: read_signals(tmp_path / "signals", LENGTHS), "reference", "none")


def test_stopped_half_way_leaves_nothing(tmp_path, monkeypatch):
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refuses(lambda: keep_signals(tmp_path / "signals", random_signals()), "No space")
    assert not list(tmp_path.iterdir())


def test_what_is_not_read_back_equal_is_not_kept(tmp_path, monkeypatch):
    def write_wrong(path, content):
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 64]))

    monkeypatch.setattr(cache, "write_whole", write_wrong)
    refuses(lambda: keep_signals(tmp_path / "signals", random_signals()), "digest")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_writer_left_is_in_nobodys_way(tmp_path):
    (tmp_path / "signals.tmp").mkdir()
    (tmp_path / "signals.tmp" / "half").touch()
    keep_signals(tmp_path / "signals", random_signals())
    assert "half" not in {p.name for p in (tmp_path / "signals").iterdir()}
    assert [p.name for p in tmp_path.iterdir()] == ["signals"]


def test_signals_that_are_there_stay(tmp_path):
    right = random_signals()
    keep_signals(tmp_path / "signals", right)
    other = replace(right, sources={"reference": "another"})
    refuses(lambda: keep_signals(tmp_path / "signals", other), "can be written")
    assert_same_signals(read_signals(tmp_path / "signals", LENGTHS), right)


def test_a_copy_is_the_same(tmp_path):
    right = random_signals()
    keep_signals(tmp_path / "signals", right)
    copy_signals(tmp_path / "signals", tmp_path / "copy")
    assert_same_signals(read_signals(tmp_path / "copy", LENGTHS), right)
    (tmp_path / "empty").mkdir()
    refuses(lambda: copy_signals(tmp_path / "empty", tmp_path / "x"), "signals.json")
    assert not (tmp_path / "x").exists()
