"""Whole files and folders: what killed writers leave goes, that of live ones stays."""

import errno
import os
import subprocess
import sys

import pytest

from shared.files import HOST, cannot_write, clear_leftovers, replace_folder, write_text
from shared.signals import cache


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_leftovers_of_killed_writers_go_and_others_stay(tmp_path, dead):
    live = os.getppid()
    gone = [f".0.{dead}.tmp", f".6.{dead}@{HOST}.tmp"]
    stay = [f".3.{live}.tmp", f".3.{live}@{HOST}.tmp", f".9.{dead}@elsewhere.tmp"]
    stay += ["3", "notes.tmp", f"{dead}.tmp.txt", f"7.{dead}", f"mine.{dead}.tmp"]
    for name in gone + stay:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    (tmp_path / f"summary.json.{dead}.tmp").touch()
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)


def test_a_writer_clears_its_own_name_alone(tmp_path, dead):
    """The folder may be anybody's: `--to`, `--json`."""
    ours, others = f"a.json.{dead}.tmp", f"data.{dead}.tmp"
    (tmp_path / ours).touch()
    (tmp_path / others).touch()
    write_text(tmp_path / "a.json", "{}")
    assert sorted(x.name for x in tmp_path.iterdir()) == ["a.json", others]


def test_a_cache_is_cleared_of_every_key(tmp_path, dead):
    left = tmp_path / f"{'0' * 64}.safetensors.{dead}.tmp"
    left.touch()
    cache.save(tmp_path, "f" * 64, "ref_nll", [])
    assert not left.exists()


def test_a_replaced_folder_leaves_folders_of_like_names_alone(tmp_path):
    like = tmp_path / "my-model.newer"
    like.mkdir()
    for _ in range(2):
        replace_folder(tmp_path / "model", lambda made: made.mkdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", like.name]


def test_a_full_disk_is_no_bad_input():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    closed = OSError(errno.EROFS, os.strerror(errno.EROFS))
    assert isinstance(cannot_write("it must be a folder", "x", full), OSError)
    refused = cannot_write("it must be a folder", "x", closed)
    assert type(refused) is ValueError
    assert str(refused) == "it must be a folder, got 'x': Read-only file system"
