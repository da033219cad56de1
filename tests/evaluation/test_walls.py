"""The walls themselves: the filter of system calls, macOS's profile, the folder."""

import ast
import json
import os
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.evaluation.sandbox import run_tests
from shared.evaluation.verdicts import Limits
from shared.evaluation.walls import child, scratch, seatbelt, watch
from shared.evaluation.walls.inside.seccomp import (
    ALLOW,
    ARCHITECTURES,
    ENOSYS,
    EPERM,
    KILL,
    filter_for,
)
from shared.evaluation.walls.inside.system_calls import numbers
from shared.evaluation.walls.levels import LADDER, SEATBELT, readable_paths
from shared.evaluation.walls.outputs import same_output
from shared.evaluation.walls.probe import weakness
from shared.evaluation.walls.scripts import Case
from tests.evaluation.world import processes_of

ROOT = Path(__file__).parents[2]
ME = 77
MACHINES = sorted(ARCHITECTURES)


def judged(machine, number, *arguments, architecture=None):
    """What the filter says of one system call, worked out as the kernel does."""
    words = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack(
        "=iIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *words
    )
    rows, at, loaded = filter_for(machine, ME), 0, 0
    while True:
        code, yes, no, constant = rows[at]
        at += 1
        if code == 0x20:
            (loaded,) = struct.unpack_from("=I", data, constant)
        elif code == 0x06:
            return constant
        else:
            tests = {0x15: loaded == constant, 0x25: loaded > constant}
            tests |= {0x35: loaded >= constant, 0x45: bool(loaded & constant)}
            at += yes if tests[code] else no


@pytest.mark.parametrize("machine", MACHINES)
def test_what_the_filter_lets_through(machine):
    number = numbers(machine)
    calls = [("read",), ("openat",), ("mmap",), ("futex",), ("clone", 0x3D0F00)]
    calls += [
        ("kill", ME, 9),
        ("tgkill", ME, 5, 6),
        ("fcntl", 3, 1),
        ("ioctl", 3, 0x5401),
    ]
    calls += [("prlimit64", 0, 7), ("socketpair", 1), ("sendto", 3, 9, 9, 0, 0)]
    for name, *arguments in calls:
        assert judged(machine, number[name], *arguments) == ALLOW, name


@pytest.mark.parametrize("machine", MACHINES)
def test_what_the_filter_stops(machine):
    number = numbers(machine)
    calls = [("kill", 1, 9), ("kill", 2**32 - 1, 0), ("kill", 0, 9), ("tgkill", 1, 1)]
    calls += [("clone", 17), ("clone", 0x3D0F00 | 0x10000000), ("prlimit64", 1)]
    calls += [
        ("fcntl", 3, 8),
        ("fcntl", 3, 10),
        ("ioctl", 0, 0x5412),
        ("socketpair", 2),
    ]
    calls += [("prctl", 1), ("prctl", 22), ("prctl", 4)]
    calls += [("sendto", 3, 9, 9, 0, 1), ("sendto", 3, 9, 9, 0, 1 << 32)]
    for name, *arguments in calls:
        assert judged(machine, number[name], *arguments) == EPERM, (name, arguments)
    named = {"fork", "vfork", "execve", "socket", "connect", "ptrace", "mount", "bpf"}
    named |= {
        "unshare",
        "setns",
        "chmod",
        "fchmodat",
        "utimensat",
        "truncate",
        "keyctl",
    }
    named |= {"io_uring_setup", "memfd_create", "process_vm_readv", "open_by_handle_at"}
    assert not named & set(number)
    assert judged(machine, 435) == ENOSYS  # clone3: libraries then take clone
    assert all(judged(machine, future) == ENOSYS for future in range(460, 600))


@pytest.mark.parametrize("machine", MACHINES)
def test_another_interface_of_the_kernel_ends_the_process(machine):
    assert judged(machine, 20, architecture=0x40000003) == KILL  # i386
    if machine == "x86_64":
        assert judged(machine, 0x40000000 + 39) == KILL  # x32


def test_the_filter_fits():
    assert all(len(filter_for(machine, ME)) < 4096 for machine in MACHINES)
    jumps = [max(row[1:3]) for row in filter_for("x86_64", ME)]
    assert max(jumps) < 256
    with pytest.raises(KeyError):
        filter_for("riscv64", ME)


def test_paths_that_python_reads():
    found = readable_paths(("/usr",)) if os.path.isdir("/usr") else readable_paths()
    assert not any(
        one != other and one.startswith(f"{other}/") for one in found for other in found
    )
    assert any(json.__file__.startswith(f"{path}/") for path in found)
    assert not any(path in ("/", "/etc", "/home", "/root", "/tmp") for path in found)


# macOS, as far as it can be told without one.


def test_the_profile_closes_what_it_does_not_name():
    lines = seatbelt.profile(["/py thon", '/a"b'], "/scratch", "/py").split("\n")
    assert lines[:2] == ["(version 1)", "(deny default)"]
    for closed in ("process-fork", "network*", "mach-lookup", "ipc*"):
        assert f"(deny {closed})" in lines
        assert not any(x.startswith(f"(allow {closed[:7]}-fork") for x in lines)
    writes = [line for line in lines if "file-write" in line]
    assert writes == [
        '(allow file-write* (subpath "/scratch"))',
        '(allow file-write-data (literal "/dev/null"))',
    ]
    assert '(allow process-exec (literal "/py thon") (subpath "/py"))' in lines
    assert '(subpath "/py thon")' in lines[2] and '(subpath "/a\\"b")' in lines[2]


def test_the_command_of_macos_gets_profile_and_python(tmp_path, monkeypatch):
    """A script in its place records what it is given, then runs it without walls."""
    record = tmp_path / "record.json"
    fake = tmp_path / "sandbox-exec"
    fake.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump([sys.argv, os.getcwd()], open({str(record)!r}, 'w'))\n"
        "os.execv(sys.argv[3], sys.argv[3:])\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(seatbelt, "COMMAND", str(fake))
    program = "def f(x): return x + 1"
    verdict = run_tests(program, ["assert f(2) == 3"], level=SEATBELT)
    assert verdict.passed and verdict.level == "seatbelt"
    command, folder = json.loads(record.read_text())
    assert command[1] == "-p" and f'(subpath "{folder}")' in command[2]
    assert command[3:7] == [sys.executable, "-s", "-S", "-P"]
    assert child.OURS in command[2] and not Path(folder).exists()


def test_memory_is_watched_where_it_has_no_limit(monkeypatch):
    watched = watch.Watch(Limits(memory_bytes=2**20), os.getpid(), None)
    watched.memory, watched.every, watched.next = True, 0.1, 0.0
    assert watch.resident_bytes(os.getpid()) > 2**20
    assert watched.look() == "out of memory" and watched.look() is None  # not so soon
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert watch.resident_bytes(ended.pid) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a signal of Linux's")
@pytest.mark.parametrize("level", [LADDER[0], LADDER[-1]], ids=lambda x: x.name)
def test_a_child_dies_with_its_parent(level, tmp_path):
    """However that ended: here by a signal that it cannot handle."""
    if why := weakness(level):
        pytest.skip(f"this level does not hold here: {why}")
    script = (
        "import sys, threading\n"
        "from shared.evaluation import verdicts\n"
        "from shared.evaluation.walls import child, levels\n"
        f"level = levels.Level('', {level.walls!r})\n"
        "limits = verdicts.Limits()\n"
        "one = child.Child('worker', level, limits, cpu_seconds=9, wall=60)\n"
        "one.send('eexec(\"while True: pass\")')\n"
        "print(flush=True)\n"
        "one.receive()\n"
    )
    command = [sys.executable, "-c", script]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout and parent.stdout.readline() == b"\n"
        assert processes_of(parent.pid)
        parent.kill()
    for _ in range(100):
        if not processes_of(parent.pid):
            break
        time.sleep(0.02)
    assert not processes_of(parent.pid)


# The scratch folder where it is on disk.


def test_any_tree_is_removed(tmp_path):
    folder, here = tmp_path / "scratch", os.getcwd()
    folder.mkdir()
    (tmp_path / "kept").write_text("kept")
    (folder / "link").symlink_to(tmp_path)
    (folder / "closed").mkdir(mode=0)
    try:
        os.chdir(folder)
        for _ in range(400):
            os.mkdir("deeper-and-deeper")
            os.chdir("deeper-and-deeper")
        Path("file").write_text("x")
    finally:
        os.chdir(here)
    scratch.remove(folder)
    assert not folder.exists() and (tmp_path / "kept").read_text() == "kept"
    scratch.remove(folder)  # is gone already


def test_size_counts_entries_and_bytes(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "link").symlink_to("/")
    found = scratch.size(tmp_path, 2**30)
    assert 100_000 <= found < 200_000
    assert 10_000 < scratch.size(tmp_path, 10_000)
    assert scratch.size(tmp_path / "gone", 1) == 0


def test_a_folder_on_disk_has_a_size(tmp_path, monkeypatch):
    watched = watch.Watch(Limits(scratch_bytes=10_000), 1, tmp_path)
    watched.next = 0.0
    assert watched.look() is None
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    watched.next = 0.0
    assert watched.look() == "too much output"


def test_the_files_of_the_child_are_those_that_run_programs():
    """`exec` and `eval` stand nowhere else in the room."""
    files = sorted(Path(child.OURS, "evaluation").rglob("*.py"))
    for file in [file for file in files if file.parent.name != "inside"]:
        nodes = ast.walk(ast.parse(file.read_text("utf-8")))
        called = {ast.unparse(x.func) for x in nodes if isinstance(x, ast.Call)}
        assert not {"exec", "eval"} & called, file
    mode = os.stat(child.LAUNCH).st_mode
    assert stat.S_ISREG(mode)


@pytest.mark.parametrize(
    "written, expected, same",
    [
        ("YES\n", "yes", True),
        ("1  2\n3 ", "1 2 3", True),
        ("0.333333", "0.33333", True),
        ("1e3", "1000", True),
        ("1.00002", "1", False),
        ("1", "1 2", False),
        ("", "", True),
        ("nan", "nan", True),
        ("nan", "1", False),
        ("inf", "1e999", False),
        ("a", "b", False),
        ("1" * 5000, "1" * 5000, True),
    ],
)
def test_outputs_are_compared_as_codecontests_does(written, expected, same):
    assert same_output(written, expected) is same
    assert Case("", expected).expected == expected
