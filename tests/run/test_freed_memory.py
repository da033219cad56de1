"""Freed memory is kept: a second step of the same size touches no new page.

Only so far as it pays: it goes before anything else, and when the process has grown.
"""

import subprocess
import sys

import pytest

from shared.run.freed_memory import (
    give_freed_memory_back,
    keep_freed_memory,
    use_one_heap,
)

TOUCH = """
import resource, sys
import numpy as np
from shared.run.freed_memory import keep_freed_memory, use_one_heap
kept = use_one_heap() and keep_freed_memory()

def touch():
    blocks = [np.full(2**24, number, np.float32) for number in range(4)]
    return sum(float(block[-1]) for block in blocks)

touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(kept, after - before)
"""


def touched(monkeypatch, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-c", TOUCH], capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")
def test_freed_memory_is_used_again(monkeypatch):
    """256 MiB are 65 536 pages of 4 KiB, or 128 of 2 MiB."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    kept, faults = touched(monkeypatch)
    if not kept:
        pytest.skip("another C library than glibc")
    assert faults < 50
    # The control: the user's own setting stands, and every block is mapped anew.
    kept, faults = touched(monkeypatch, MALLOC_MMAP_THRESHOLD_="1000000")
    assert not kept and faults >= 128


def test_what_the_user_has_set_stands(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert use_one_heap() is False and keep_freed_memory() is False
    give_freed_memory_back()


# What the process holds, in MiB: first, with a step's 256 freed, with 256 more that
# another step has freed elsewhere, after the next step begins, and all given back.
BOUND = """
import numpy as np
from benchmarks.memory import resident
from shared.run.freed_memory import *
kept = use_one_heap() and keep_freed_memory()
sizes = [resident()]
block = np.ones(2**25); small = np.ones(1000); del block
keep_freed_memory()
sizes.append(resident())
block = np.ones(2**25); other = np.ones(2**25); small = np.ones(1000); del block, other
sizes.append(resident())
keep_freed_memory()
sizes.append(resident())
block = np.ones(2**25); del block
give_freed_memory_back()
sizes.append(resident())
print(kept, *[(size - sizes[0]) // 2**20 for size in sizes[1:]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")
def test_what_is_kept_has_a_bound(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    done = subprocess.run(
        [sys.executable, "-c", BOUND], capture_output=True, text=True, check=True
    )
    kept, *sizes = done.stdout.split()
    if kept != "True":
        pytest.skip("another C library than glibc")
    one, two, cut, none = map(int, sizes)
    assert one >= 250 and two >= 500
    assert cut < 20 and none < 20
