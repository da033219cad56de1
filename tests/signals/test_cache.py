"""The cache of signals: exact, whole or absent, and never trusted blindly."""

import json
import logging
import os
import stat

import numpy as np
import pytest
import safetensors.numpy

from shared.signals import cache

KEY = cache.signal_key(model="m", max_length=128)
REF_NLL = (
    np.array([0, 1.5, 2.25], np.float32),
    np.array([0, 0.125], np.float32),
    np.array([0, 3e-8, 7, 1e4], np.float32),
)
LENGTHS = [3, 2, 4]


def test_round_trip_is_exact(tmp_path):
    path = cache.save(tmp_path / "deep" / "signals", KEY, "ref_nll", REF_NLL)
    assert path.name == f"{KEY}.safetensors"
    loaded = cache.load(path.parent, KEY, "ref_nll", LENGTHS)
    assert len(loaded) == 3
    for found, right in zip(loaded, REF_NLL, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, right)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_no_documents(tmp_path):
    cache.save(tmp_path, KEY, "ref_nll", ())
    assert cache.load(tmp_path, KEY, "ref_nll", []) == ()


def test_absent_is_none_without_a_warning(tmp_path, caplog):
    assert cache.load(tmp_path / "nowhere", KEY, "ref_nll", LENGTHS) is None
    assert not caplog.records


def test_the_key_depends_on_every_part():
    parts = {"model": "a", "max_length": 128, "layout": "packed"}
    assert cache.signal_key(**parts) == cache.signal_key(**dict(sorted(parts.items())))
    changed = [parts | {name: "other"} for name in parts]
    keys = {cache.signal_key(**p) for p in [parts, *changed]}
    assert len(keys) == 4 and all(len(key) == 64 for key in keys)
    with pytest.raises(TypeError):
        cache.signal_key(model=np.zeros(2))


def _header_of(path):
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return content, 8 + size, json.loads(content[8 : 8 + size])


def test_damage_is_found_wherever_it_is(tmp_path, caplog):
    path = cache.save(tmp_path, KEY, "ref_nll", REF_NLL)
    content, _, _ = _header_of(path)
    caplog.set_level(logging.WARNING)
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 0x11
        path.write_bytes(damaged)
        loaded = cache.load(tmp_path, KEY, "ref_nll", LENGTHS)
        if loaded is not None:  # only spaces of the header say nothing
            for found, right in zip(loaded, REF_NLL, strict=True):
                np.testing.assert_array_equal(found, right)
    assert len(caplog.records) > 0.9 * len(content)
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        assert cache.load(tmp_path, KEY, "ref_nll", LENGTHS) is None
    path.write_bytes(content)
    assert cache.load(tmp_path, KEY, "ref_nll", LENGTHS) is not None


@pytest.mark.parametrize("lengths", [[3, 2], [2, 3, 4], [3, 2, 5], [9], []])
def test_other_lengths_are_not_trusted(tmp_path, caplog, lengths):
    cache.save(tmp_path, KEY, "ref_nll", REF_NLL)
    assert cache.load(tmp_path, KEY, "ref_nll", lengths) is None
    assert "other lengths" in caplog.text


def test_a_file_of_another_key_is_not_trusted(tmp_path, caplog):
    path = cache.save(tmp_path, KEY, "ref_nll", REF_NLL)
    other = cache.signal_key(model="another")
    path.rename(tmp_path / f"{other}.safetensors")
    assert cache.load(tmp_path, other, "ref_nll", LENGTHS) is None
    assert f"must be of key {other}" in caplog.text


@pytest.mark.parametrize(
    "tensors",
    [
        {"ref_nll": np.zeros(9, np.float32)},
        {"ref_nll": np.zeros(9, np.float32), "offsets": np.array([0, 3, 5, 9])},
        {"ref_nll": np.zeros(9), "offsets": np.array([0, 3, 5, 9])},
    ],
)
def test_a_foreign_file_is_not_trusted(tmp_path, caplog, tensors):
    safetensors.numpy.save_file(tensors, tmp_path / f"{KEY}.safetensors")
    assert cache.load(tmp_path, KEY, "ref_nll", LENGTHS) is None
    assert "will be made anew" in caplog.text


def test_a_wrong_dtype_with_the_right_digest_is_not_trusted(tmp_path, caplog):
    flat, offsets = np.zeros(9), np.array([0, 3, 5, 9])
    metadata = {"key": KEY, "sha256": cache._content_digest(flat, offsets)}
    file = tmp_path / f"{KEY}.safetensors"
    safetensors.numpy.save_file({"ref_nll": flat, "offsets": offsets}, file, metadata)
    assert cache.load(tmp_path, KEY, "ref_nll", LENGTHS) is None
    assert "must be float32" in caplog.text


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be finite, got 2 other numbers among 3"):
        cache.save(
            tmp_path, KEY, "ref_nll", [np.array([0, np.nan, np.inf], np.float32)]
        )
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = cache.save(tmp_path, KEY, "ref_nll", REF_NLL)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"can be written, got .*: No space left"):
        cache.save(tmp_path, KEY, "ref_nll", REF_NLL[:1])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "signals").write_text("")
    with pytest.raises(ValueError, match="folder that can be written"):
        cache.save(tmp_path / "signals", KEY, "ref_nll", REF_NLL)


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o022)
    try:
        path = cache.save(tmp_path, KEY, "ref_nll", REF_NLL)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
