"""The watchdog, beside threads that stand for processes."""

import json
import threading
import time

import pytest

from shared.run import leave as leaving
from shared.run.leave import leave
from shared.run.peers import STALLED, Peers, Stalled, name_of
from shared.run.watchdog import Heard, Watchdog


class Words:
    """A board in one process; `silent` processes are not heard of any more."""

    def __init__(self):
        self.words, self.silent = {}, set()

    def put(self, key, text):
        if key.partition("/")[2] not in self.silent:
            self.words[key] = text

    def get(self, key, seconds):
        until = time.monotonic() + seconds
        while key not in self.words and time.monotonic() < until:
            time.sleep(0.01)
        return self.words[key]

    def under(self, prefix):
        beginning = prefix + "/"
        return {
            key.removeprefix(beginning): text
            for key, text in dict(self.words).items()
            if key.startswith(beginning)
        }

    def meet(self, name, seconds):
        raise AssertionError("nobody meets here")


class Ends:
    """Takes the place of what ends a process."""

    def __init__(self):
        self.code, self.come = None, threading.Event()

    def __call__(self, code):
        self.code = code
        self.come.set()


def watched(folder, *, index=0, count=1, board=None, least=0.2, factor=3.0):
    peers = Peers(index=index, count=count, **({"board": board} if board else {}))
    end = Ends()
    dog = Watchdog(factor=factor, least=least, peers=peers, folder=folder, end=end)
    return dog, end


def steps(dog, number=5, seconds=0.01):
    for step in range(1, number + 1):
        dog.now("step", step)
        time.sleep(seconds)
    dog.now("step", number + 1)


def test_a_step_that_does_not_end_ends_the_run(tmp_path, capsys):
    dog, end = watched(tmp_path)
    with dog:
        steps(dog)
        assert not end.come.is_set()
        began = time.monotonic()
        assert end.come.wait(5)
    assert 0.1 < time.monotonic() - began < 1
    assert end.code == STALLED == 75
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: process 0 of 1")
    assert "step of step 6" in said and f"--resume {tmp_path}" in said
    stacks = (tmp_path / "stacks-0.txt").read_text()
    assert "test_a_step_that_does_not_end" in stacks  # where this thread waits


def test_limits_follow_the_median():
    dog, _ = watched(None, least=0.001, factor=10.0)
    dog._since = time.monotonic()
    assert dog.limit("step") == 3600  # of the first nothing is known
    assert dog.limit("start") == float("inf")
    steps(dog, 3, 0.05)
    assert 0.5 <= dog.limit("step") < 1
    assert dog.limit("evaluation") == 3600
    off, end = watched(None, factor=0.0)
    with off:
        steps(off, 2)
        assert off.limit("step") == float("inf")
        assert not end.come.wait(0.4)


def test_a_process_that_was_itself_stopped_goes_on(tmp_path):
    dog, end = watched(tmp_path, least=0.5)
    with dog:
        steps(dog)
        dog._since -= 30  # as if 30 seconds had gone by ...
        dog._was_away(30)  # ... in which it did not run
        assert not end.come.wait(0.2)
        dog.now("end", 6)


def pair(tmp_path, **changes):
    board = Words()
    return board, *[
        watched(tmp_path, index=i, count=2, board=board, **changes) for i in (0, 1)
    ]


def test_the_one_that_is_behind_is_named(tmp_path, capsys):
    board, (first, end_first), (second, end_second) = pair(tmp_path)
    with first, second:
        steps(first)
        steps(second)
        first.now("step", 7)
        second.now("data", 7)
        second._times["data"].append(0.01)
        assert end_first.come.wait(5) and end_second.come.wait(9)
    assert end_first.code == end_second.code == STALLED
    said = capsys.readouterr().err
    assert "process 1 of 2" in said and "is behind: data of step 7" in said
    assert set(board.under("left")) == {"0", "1"}


def test_one_that_is_not_heard_of_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(leaving, "LINGER", 0.3)
    board, (first, end_first), (second, _) = pair(tmp_path, factor=1e9)
    with first, second:
        time.sleep(0.2)
        board.silent.add("1")
        assert end_first.come.wait(9)
        second.end = lambda code: None
    said = capsys.readouterr().err
    assert "process 1 of 2" in said and "has not been heard of" in said
    assert end_first.code == STALLED


def test_a_board_that_does_not_answer_is_the_fault_of_the_first(tmp_path):
    """Nobody is heard of then; the others are not to be blamed for it."""
    dog, _ = watched(tmp_path, index=1, count=3, board=Words(), least=10.0)
    dog._heard = {0: Heard(97.0), 2: Heard(96.0)}
    dog._answered = 98.0
    assert dog._silent(10.0, now=107.0) == []
    assert dog._silent(10.0, now=109.0) == [0]
    dog._answered = 108.0  # it answers, and has not heard of them
    assert dog._silent(10.0, now=109.0) == [0, 2]


def test_the_code_of_one_that_ends_is_that_of_all(tmp_path, capsys):
    _, (first, end_first), (second, _) = pair(tmp_path, factor=1e9)
    with first:
        leave(second.peers, 2, "data.source must be a folder", lambda code: None)
        assert end_first.come.wait(9)
    assert end_first.code == 2
    said = capsys.readouterr().err
    assert "process 1 of 2 has ended: data.source must be a folder" in said
    told = first.missed()
    assert isinstance(told, Stalled) and told.code == 2


def test_what_the_first_makes_or_refuses_is_told_to_all():
    board = Words()
    first, second = (Peers(index=i, count=2, board=board) for i in (0, 1))
    assert first.told("run", lambda: {"path": "x"}) == {"path": "x"}
    assert second.told("run", lambda: pytest.fail("only the first")) == {"path": "x"}

    def refuse():
        raise ValueError("run_name must be new")

    for peers in (first, second):
        with pytest.raises(ValueError, match="run_name must be new"):
            peers.told("other", refuse)
    assert json.loads(board.words["told/1-other"])["bad"]
    assert Peers().told("alone", lambda: 3) == 3 and Peers().ask(15)() == 15
    assert name_of(1, 2) in second.name
