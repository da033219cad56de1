"""Our tasks in lm-evaluation-harness: the numbers of `wmtp_jax.evaluate`, offline."""

import json
import logging
import sys

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from shared.evaluation.results.kept import read_results
from shared.evaluation.results.of_problems import bits_per_byte
from shared.evaluation.tasks.prompts import find_form
from shared.evaluation.walls.levels import SandboxError
from tests import lm_eval_model
from tests.cases import shorter_rows
from wmtp_jax import evaluate, harness
from wmtp_jax.harness_model import TASKS, WMTP
from wmtp_jax.harness_tasks import problems

pytestmark = pytest.mark.unaudited  # the harness computes as it likes
base, ours = lm_eval_model.base, lm_eval_model.ours


FORMS = [("mbpp", "mbpp 3-shot"), ("mbpp_zero_shot", "mbpp zero-shot")]


@pytest.mark.parametrize("task, form", shorter_rows(FORMS, FORMS[1:]))
def test_the_same_numbers_there_and_here(task, form, base, ours, tmp_path, monkeypatch):
    """Of our tasks, without network: every text, every pass, every bit."""
    import socket

    def refuse(*_):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    place = ["--model", base, "--to", str(tmp_path), "--limit", "2", "--rows", "4"]
    assert evaluate.main([*place, "--form", form, "--drafter", "none"]) == 0
    results = read_results(tmp_path / "mbpp.jsonl")
    has_bits = task == "mbpp"
    found = simple_evaluate(
        ours,
        tasks=[f"wmtp_{task}", *["wmtp_mbpp_bits"] * has_bits],
        task_manager=TaskManager(
            include_path=str(TASKS),
            include_defaults=False,
            metadata={"source": "minis"},
        ),
        limit=2,
        bootstrap_iters=0,
    )
    texts = [sample["resps"][0][0] for sample in found["samples"][f"wmtp_{task}"]]
    assert texts == [result.completions[0].text for result in results]
    told, own = found["results"], bits_per_byte(results)
    assert told[f"wmtp_{task}"]["pass_at_1,all"] == sum(x.c for x in results) / 2
    if has_bits:
        assert told["wmtp_mbpp_bits"]["bits_per_byte,none"] == pytest.approx(
            sum(own) / 2, rel=1e-6
        )


def test_right_answers_pass_there():
    """The sandbox judges; a task's own text is what the harness would ask."""
    for task, form in (("mbpp", "mbpp 3-shot"), ("humaneval", "humaneval")):
        documents = problems.load_to_judge(task, form)["test"]
        right, wrong = documents[0]["solution"].removesuffix("[DONE]"), "return 1 +"
        assert problems.judged(documents[0], [[right, wrong]]) == {"pass_at_1": 0.5}
    many = problems.judged(documents[0], [[right, *[wrong] * 19]])
    assert many == pytest.approx({"pass_at_1": 1 / 20, "pass_at_10": 1 / 2})
    documents = problems.load("mbpp", "mbpp 3-shot", source="minis")["test"]
    size = len(documents[0]["solution"].encode())
    assert problems.bits(documents[0], [(-size, False)])["bits_per_byte"] == (
        pytest.approx(1 / 0.6931471805599453)
    )


class Knows(WMTP):
    """Of the samples of a problem, the first is right."""

    def __init__(self):
        TemplateLM.__init__(self)

    def generate_until(self, requests, disable_tqdm=False):
        left = {(x.task_name, x.doc_id): x.doc["solution"] for x in requests}
        return [left.pop((x.task_name, x.doc_id), "1 +") for x in requests]


def test_every_sample_is_judged():
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    asked = manager.load(["wmtp_mbpp", "wmtp_humaneval"])["tasks"]
    asked["wmtp_mbpp"].set_config("repeats", 10)
    found = simple_evaluate(
        Knows(),
        tasks=list(asked.values()),
        task_manager=manager,
        limit=2,
        bootstrap_iters=0,
        gen_kwargs={"temperature": 0.8, "do_sample": True},
    )
    told = found["results"]
    assert told["wmtp_mbpp"]["pass_at_1,all"] == pytest.approx(1 / 10)
    assert told["wmtp_mbpp"]["pass_at_10,all"] == 1.0
    assert told["wmtp_humaneval"]["pass_at_1,all"] == 1.0


def test_without_a_sandbox_nothing_runs(monkeypatch):
    def refuse(**_):
        raise SandboxError("no sandbox here")

    monkeypatch.setattr(problems, "level_for", refuse)
    with pytest.raises(ValueError, match="no sandbox here"):
        problems.load_to_judge("mbpp", "mbpp 3-shot")
    assert problems.load("mbpp", "mbpp 3-shot")["test"]


@pytest.mark.parametrize("path", sorted(TASKS.glob("*.yaml")), ids=lambda x: x.stem)
def test_tasks_stop_where_our_forms_do(path):
    task = load_yaml(path, resolve_func=False)
    asked = task["dataset_kwargs"]
    form = find_form(asked["task"], asked["form"])
    runs = task["output_type"] == "generate_until"
    assert task["task"] == path.stem
    assert ("load_to_judge" in str(task["custom_dataset"])) == runs
    if runs:
        kwargs = task["generation_kwargs"]
        assert tuple(kwargs["until"]) == form.stop
        most = "max_length" if form.counts_prompt else "max_gen_toks"
        assert kwargs[most] == form.max_tokens and len(kwargs) == 3


def test_the_command(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("wmtp_jax.sharding.keep_programs", lambda folder: None)
    monkeypatch.setenv("TQDM_DISABLE", "1")  # kept as it was
    file = tmp_path / "told.json"
    include = f"include: {TASKS / 'wmtp_humaneval_bits.yaml'}\ntask: of_mine\n"
    (tmp_path / "of_mine.yaml").write_text(include)
    options = ["--model", base, "--limit", "1", "--include", str(tmp_path)]
    options += ["--tasks", "wmtp_humaneval_bits,of_mine"]
    assert harness.main([*options, "--to", str(file)]) == 0
    assert "bits_per_byte" in capsys.readouterr().out
    told = json.loads(file.read_text())["results"]
    assert told["wmtp_humaneval_bits"] and told["of_mine"]
    assert harness.main(["--model", base, "--tasks", "wmtp_nothing"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "--tasks must be of wmtp_humaneval, " in told[-1]
    assert harness.main([*options, "--data", "nowhere"]) == 2
    assert "the source of humaneval must be" in capsys.readouterr().err
    assert harness.main([*options, "--data", "mbpp=minis", "humaneval=nowhere"]) == 2
    assert "the source of humaneval must be" in capsys.readouterr().err
    assert harness.main([*options, "--data", "nothing=minis"]) == 2
    assert "--data must be TASK=SOURCE of mbpp, " in capsys.readouterr().err
    logging.getLogger("lm_eval").setLevel(logging.NOTSET)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert harness.main(options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "lm-evaluation-harness must be installed (pip install" in line
