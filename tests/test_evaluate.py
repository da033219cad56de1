"""`python -m wmtp_jax.evaluate`: from a model's folder to results and their table."""

import json
import math
from dataclasses import replace

import pytest
import torch
import transformers

from shared.evaluation.asked import default_folder
from shared.evaluation.results import kept as kept_results
from shared.evaluation.tasks.loading import load_problems
from shared.evaluation.tasks.prompts import find_form
from tests.started import folder_of
from wmtp_jax import evaluate, evaluating

FORM = find_form("mbpp", "mbpp zero-shot")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "base"
    return folder_of("gpt2", folder, vocab_size=259, n_positions=1024)


@pytest.fixture
def run(base, tmp_path, monkeypatch):
    """The command on it, into `tmp_path`; with a small form, so that it is short."""
    monkeypatch.setattr("shared.evaluation.tasks.prompts.FORMS", SHORT_FORMS)
    monkeypatch.setattr("shared.evaluation.tasks.solutions.FORMS", SHORT_FORMS)

    def main(*options):
        place = ["--model", base, "--to", tmp_path / "found", "--rows", 4]
        return evaluate.main([str(x) for x in (*place, *options)])

    return main


def shortened(form):
    return replace(form, max_tokens=8, counts_prompt=False)


SHORT_FORMS = (
    shortened(FORM),
    shortened(find_form("humaneval", "humaneval stripped")),
)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def solved(monkeypatch):
    """The engine writes the references of all problems but the first."""
    golds = [FORM.gold(problem) for problem in load_problems("mbpp", "minis", limit=4)]

    def answers(engine, requests, stream):
        for request in requests:
            number = request.sampling.seed
            text = golds[number] if number else "    return 1 +"
            sample = {"text": text, "finish": "stop", "tokens": [1] * 7}
            yield [dict(sample) for _ in range(request.samples)]

    monkeypatch.setattr(evaluating, "answers", answers)


def test_from_a_folder_to_a_table(run, tmp_path, capsys):
    asked = ("--tasks", "bits,mbpp,humaneval", "--limit", 2)
    assert run(*asked) == 0
    shown = capsys.readouterr().out
    for name in ("mbpp (mbpp zero-shot)", "humaneval (humaneval stripped)"):
        assert name in shown
    assert "sandbox: " in shown
    found = tmp_path / "found"
    names = {"mbpp.jsonl", "mbpp.settings.json", "humaneval.jsonl",
             "humaneval.settings.json"}  # fmt: skip
    assert {path.name for path in found.iterdir()} == names
    for line in lines_of(found / "mbpp.jsonl"):
        assert line["n"] == 1 and line["level"] and line["bytes"] > 0
        assert 6 < line["bits"] / line["bytes"] < 10  # of a random model, about 8
        assert len(line["completions"]) == len(line["heads"]) == 1
    settings = json.loads((found / "mbpp.settings.json").read_text())
    assert settings["form"] == "mbpp zero-shot" and settings["num_problems"] == 2
    assert len(settings["model_digest"]) == len(settings["prompts_digest"]) == 64
    before = (found / "mbpp.jsonl").read_bytes()
    assert run(*asked) == 0  # everything is there
    table = shown[shown.index("task ") :]
    assert capsys.readouterr().out.endswith(table)
    assert (found / "mbpp.jsonl").read_bytes() == before
    other = tmp_path / "other"
    for name in ("mbpp.jsonl", "mbpp.settings.json"):
        other.mkdir(exist_ok=True)
        (other / name).write_text(
            (found / name).read_text().replace('"bits": ', '"bits": 1')
        )
    assert run(*asked, "--against", other) == 0
    told = capsys.readouterr().out
    assert f"difference to {other}" in told and "warning" not in told
    assert run(*asked, "--against", tmp_path) == 0
    assert "has none of these tasks" in capsys.readouterr().out
    assert run("--tasks", "bits,mbpp", "--limit", 3) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "num_problems, prompts_digest" in told[0]


def test_what_is_right_is_counted(run, solved, tmp_path, capsys):
    assert run("--tasks", "mbpp", "--limit", 4, "--samples", 2, "--k", 1, 2,
               "--temperature", 1) == 0  # fmt: skip
    results = kept_results.read_results(tmp_path / "found" / "mbpp.jsonl")
    assert [(result.n, result.c) for result in results] == [(2, 0), *[(2, 2)] * 3]
    outcomes = [result.completions[0].outcome for result in results]
    assert outcomes == ["error", "passed", "passed", "passed"]
    assert results[0].bits is None
    shown = capsys.readouterr().out
    assert shown.count("75.0 % [") == 2 and "16 samples or more" in shown


def test_what_is_stopped_goes_on(run, solved, tmp_path, monkeypatch, capsys):
    asked = ("--tasks", "bits,mbpp", "--limit", 4)
    plain = kept_results.KeptResults.add

    def stop(self, result):
        plain(self, result)
        if len(self.results) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(kept_results.KeptResults, "add", stop)
    assert run(*asked) == 130
    assert not (tmp_path / "found" / "mbpp.jsonl").exists()
    monkeypatch.setattr(kept_results.KeptResults, "add", plain)
    assert run(*asked) == 0
    stopped = lines_of(tmp_path / "found" / "mbpp.jsonl")
    (tmp_path / "found").rename(tmp_path / "stopped")
    assert run(*asked) == 0
    assert lines_of(tmp_path / "found" / "mbpp.jsonl") == stopped
    assert [line["c"] for line in stopped] == [0, 1, 1, 1]


def test_bits_are_those_of_transformers(run, base, tmp_path):
    assert run("--tasks", "bits", "--limit", 2) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(base)
    lines = lines_of(tmp_path / "found" / "mbpp.jsonl")
    for problem, line in zip(
        load_problems("mbpp", "minis", limit=2), lines, strict=True
    ):
        assert "n" not in line
        prompt, gold = (f(problem).encode() for f in (FORM.text, FORM.gold))
        ids = torch.tensor([[byte + 3 for byte in prompt + gold]])
        with torch.no_grad():
            nll_L = -torch.log_softmax(theirs(ids).logits[0, :-1].double(), -1)
        own = nll_L.gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
        assert line["bytes"] == len(gold)
        assert line["bits"] == pytest.approx(float(own.sum()) / math.log(2), rel=1e-5)


@pytest.mark.parametrize(
    "options, said",
    [
        (("--tasks", "bits,mbbp"), "--tasks must be of bits, validation, mbpp"),
        (("--tasks", "mbpp", "--data", "humaneval=x"), "TASK=SOURCE of mbpp, got"),
        (("--data", "nowhere"), "the source of mbpp must be"),
        (("--samples", "0"), "--samples must be >= 1"),
        (("--samples", "4"), "--temperature must be > 0 for several samples"),
        (("--k", "2"), "--k must be at most --samples = 1, got 2"),
        (("--form", "of mine"), "must be one of mbpp zero-shot, got 'of mine'"),
    ],
)
def test_bad_input_is_one_line(options, said, run, tmp_path, capsys):
    assert run(*options) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and said in told[0], told
    assert not list((tmp_path / "found").glob("*.json*"))


def test_results_go_into_the_run_that_is_evaluated(tmp_path):
    (tmp_path / "config.yaml").touch()
    assert default_folder(str(tmp_path)) == tmp_path / "evaluated"
    step = tmp_path / "checkpoints" / "50"
    assert default_folder(str(step)) == tmp_path / "evaluated" / "50"
    assert default_folder("a/b").parts == ("runs", "evaluated", "b")


def test_without_walls_nothing_runs(run, monkeypatch, capsys):
    from shared.evaluation.walls.levels import SandboxError

    def none(*, unsafe):
        raise SandboxError("no wall holds here (--unsafe-execution runs without)")

    monkeypatch.setattr(evaluate, "level_for", none)
    assert run("--tasks", "mbpp") == 2
    assert "--unsafe-execution" in capsys.readouterr().err
