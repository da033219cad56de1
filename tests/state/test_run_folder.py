"""Run folders: made whole, each by one process alone, usable whatever was killed."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from shared.config.fields import Config
from shared.config.layers import load_config
from shared.state import run_folder

ROOT = Path(__file__).parents[2]
# Starts at a moment that is given, so that both are at it at once.
RACER = """
import sys, time
from shared.config.fields import Config
from shared.state import run_folder
time.strftime = lambda *_: "20260102-030405"
def fill(path):
    (path / "mine").touch()
while time.time() < float(sys.argv[2]):
    pass
for _ in range(6):
    path, cfg, _ = run_folder.create(Config(output_dir=sys.argv[1]), fill)
    assert cfg.run_name == path.name and (path / "mine").exists()
    print(path.name)
"""


def create(folder, **fields):
    return run_folder.create(Config(output_dir=str(folder), **fields), lambda _: None)


def test_two_runs_of_one_second_get_two_names(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "20260102-030405")
    paths = [create(tmp_path)[0] for _ in range(3)]
    first = "baseline-20260102-030405"
    assert [path.name for path in paths] == [first, f"{first}-2", f"{first}-3"]
    for path in paths:
        assert load_config(path / "config.yaml").run_name == path.name


def test_processes_that_start_at_once_get_a_folder_each(tmp_path):
    moment = str(time.time() + 3)
    command = [sys.executable, "-c", RACER, str(tmp_path), moment]
    racers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(2)
    ]
    names = [racer.communicate(timeout=60)[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert len({*names[0], *names[1]}) == 12 == len(list(tmp_path.iterdir()))
    for path in tmp_path.iterdir():
        assert load_config(path / "config.yaml").run_name == path.name


def test_a_name_that_is_given_is_never_changed(tmp_path):
    create(tmp_path, run_name="mine")
    with pytest.raises(ValueError, match="run_name must be new, got 'mine'"):
        create(tmp_path, run_name="mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("left", [None, "config.yaml.{}.tmp"])
def test_a_folder_that_was_killed_before_its_config_can_be_used(left, tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    (tmp_path / "mine").mkdir()
    if left:
        (tmp_path / "mine" / left.format(process.pid)).touch()
    path, _, _ = create(tmp_path, run_name="mine")
    assert [file.name for file in path.iterdir()] == ["config.yaml"]


def test_a_run_that_is_killed_while_it_is_made_leaves_no_folder_of_its_name(tmp_path):
    code = RACER.replace(
        "    (path /", "    import os; os.kill(os.getpid(), 9)\n    (path /"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), "0"], cwd=ROOT)
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".new-run.")
    create(tmp_path, run_name="other")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_failure_while_it_is_made_leaves_nothing(tmp_path):
    def fill(path):
        (path / "half").touch()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_folder.create(Config(output_dir=str(tmp_path)), fill)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_run_is_refused_in_one_line():
    if os.name == "nt":
        pytest.skip("needs POSIX permissions")
    with tempfile.TemporaryDirectory() as folder:
        path, _, _ = create(folder, run_name="mine")
        os.chmod(folder, 0o755)
        os.chmod(path, 0o555)
        if os.geteuid() == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(ValueError, match="must be one that can be written"):
                run_folder.lock(path)
        finally:
            os.seteuid(os.getuid())


def test_a_read_only_disk_is_told_as_one(tmp_path, monkeypatch):
    """Also where the permissions would allow it."""
    real = os.open

    def read_only(path, *rest, **options):
        if str(path).endswith(".lock"):
            raise OSError(30, "Read-only file system", path)
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(ValueError, match=r"written, got .*: Read-only file system"):
        run_folder.lock(tmp_path)


def test_a_run_is_found_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path, cfg, _ = create("~/runs", run_name="mine")
    assert path == tmp_path / "runs" / "mine"
    assert cfg.output_dir == str(tmp_path / "runs")
    for resume, runs in (("~/runs/mine", "."), ("mine", "~/runs")):
        assert run_folder.find(resume, runs) == (path, None)
