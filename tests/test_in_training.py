"""`train.evaluate`: what is asked, how long, and that it is what `evaluate` finds."""

import logging
from dataclasses import replace

import pytest

import wmtp_jax.evaluate
import wmtp_jax.train
import wmtp_torch_mps.evaluate
import wmtp_torch_mps.train
from shared.config.layers import build
from shared.data.tokenizer import load_tokenizer
from shared.evaluation import in_training
from shared.evaluation.in_training import InTraining, read_parts
from shared.evaluation.results.kept import read_results
from shared.evaluation.results.of_problems import ProblemResult, bits_per_byte
from tests import trained

JAX = (wmtp_jax.train, wmtp_jax.evaluate)
TORCH = (wmtp_torch_mps.train, wmtp_torch_mps.evaluate)


def asked(*entries, **train):
    return build(
        {"train.evaluate": entries} | {f"train.{k}": x for k, x in train.items()}
    )


@pytest.mark.parametrize(
    "backend, tasks",
    [
        pytest.param(JAX, ["bits", "mbpp:2"], id="jax-writes", marks=pytest.mark.slow),
        pytest.param(JAX, ["bits:2"], id="jax"),
        pytest.param(TORCH, ["bits:2"], id="torch"),
    ],
)
def test_it_is_what_evaluate_finds(backend, tasks, tmp_path):
    train, evaluate = backend
    pace = ["--train.eval-every", "2", "--model.max-positions", "512"]
    run = trained.run(
        train, tmp_path, "run", "--algo", "baseline", "--train.max-steps", "2", *pace,
        "--train.evaluate", *tasks,
    )  # fmt: skip
    rows = trained.rows(run)
    names = {name for name in rows[2] if name.endswith("_mbpp")}
    writes = "mbpp:2" in tasks
    assert names == {"eval_problems_mbpp", "eval_bits_per_byte_mbpp"} | (
        {"eval_pass_at_1_mbpp"} if writes else set()
    )
    assert rows[0].keys() >= names
    to = ["--to", str(tmp_path / "found"), "--split", "validation", "--limit", "2"]
    of = ["--model", str(run), "--tasks", "bits", "--form", "mbpp zero-shot"]
    assert evaluate.main([*of, *to]) == 0
    own = bits_per_byte(read_results(tmp_path / "found" / "mbpp.jsonl"))
    assert rows[2]["eval_bits_per_byte_mbpp"] == pytest.approx(sum(own) / 2, rel=1e-5)
    assert rows[2]["eval_bits_per_byte_mbpp"] != rows[0]["eval_bits_per_byte_mbpp"]
    assert rows[2]["eval_problems_mbpp"] == 2


@pytest.mark.parametrize(
    "entries, writes, said",
    [
        (["bits", "mbbp"], True, "of bits, mbpp, mbpp_plus, humaneval, "),
        (["mbpp:0"], True, "with :COUNT and =SOURCE, got 'mbpp:0'"),
        (["mbpp:5"], False, "train.evaluate must be of bits, each"),
        (["humaneval"], True, "humaneval=SOURCE names another"),
        (["mbpp=nowhere"], True, "the source of mbpp must be"),
    ],
)
def test_bad_entries(entries, writes, said, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"task_id": 1, "text": "t", "code": "c", "test_list": []}\n' * 20)
    cfg = build({"train.evaluate": entries, "data.source": str(data)})
    with pytest.raises(ValueError) as caught:
        read_parts(cfg, writes=writes)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_steps_that_are_no_evaluation():
    with pytest.raises(
        ValueError, match=r"a multiple of train\.eval_every = 50, got 70"
    ):
        read_parts(asked("bits", evaluate_every=70), writes=False)


def test_bits_are_of_what_stands_beside_them():
    (alone,) = read_parts(asked("bits:3"), writes=True)
    assert alone.bits and alone.level is None and len(alone.problems) == 3
    first, second = read_parts(
        asked("mbpp:2", "bits", "humaneval:1=minis"), writes=True
    )
    assert first.bits and second.bits and first.level == second.level is not None
    assert (len(first.problems), len(second.problems)) == (2, 1)
    (written,) = read_parts(asked("mbpp:2"), writes=True)
    assert not written.bits
    assert read_parts(asked(), writes=True) == ()


class Clock:
    """Each answer takes a second."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(in_training.time, "monotonic", lambda: self.now)

    def each(self, part, pairs):
        for problem, _ in pairs:
            self.now += 1
            yield ProblemResult(id=problem.id, n=1, c=1, bits=8.0, bytes=4)


def make(cfg, most=512):
    return InTraining(cfg, read_parts(cfg, writes=True), load_tokenizer("bytes"), most)


def test_time_is_up(monkeypatch, caplog):
    """Later evaluations ask no more than the first had time for."""
    clock, never = Clock(monkeypatch), lambda: False
    tasks = make(asked("bits", "mbpp:9", evaluate_seconds=3.5))
    with caplog.at_level(logging.WARNING, "wmtp"):
        found = tasks.measure(clock.each, never)
    names = ("eval_problems_mbpp", "eval_pass_at_1_mbpp", "eval_bits_per_byte_mbpp")
    assert found == dict(zip(names, (5, 1.0, 2.0), strict=True))
    assert "after 5 of 9 problems of mbpp" in caplog.text
    caplog.clear()
    assert tasks.measure(clock.each, never) == found and not caplog.text


def test_a_run_that_is_told_to_stop_does_not_go_on_asking(monkeypatch):
    clock = Clock(monkeypatch)
    tasks = make(asked("mbpp:9"))
    assert tasks.measure(clock.each, lambda: clock.now == 2) == {}
    assert clock.now == 2


def test_when_tasks_are_due():
    tasks = make(asked("bits", eval_every=10, evaluate_every=20))
    assert [n for n in range(0, 36, 5) if tasks.due(n, 35)] == [0, 20, 35]
    assert not make(asked()).due(0, 35)


def test_problems_without_room_are_left_out(caplog):
    cfg = asked("bits:9")
    part = read_parts(cfg, writes=True)[0]
    long = replace(part.problems[0], statement="x" * 600)
    parts = (replace(part, problems=(long, *part.problems[1:])),)
    with caplog.at_level(logging.WARNING, "wmtp"):
        tasks = InTraining(cfg, parts, load_tokenizer("bytes"), 512)
    assert "1 of 9 problems of mbpp are left out" in caplog.text
    ((_, pairs),) = tasks._asked
    assert len(pairs) == 8
