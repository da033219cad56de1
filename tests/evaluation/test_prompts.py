"""Prompts, stop lists, and programs of completions."""

import hashlib
import json
from importlib.resources import files
from pathlib import Path

import pytest

from shared.data.examples import read_examples
from shared.evaluation.tasks.loading import load_problems
from shared.evaluation.tasks.problems import reference
from shared.evaluation.tasks.prompts import FORMS, cut, fenced, find_form, shots

DATA = Path(__file__).parents[3] / "shared" / "data"
# sha256 of the JSON list of prompts that the harnesses' own templates and functions
# build: lm-evaluation-harness 4e7e0d4 (its YAML by jinja2), BigCode 8fc5bae.
GOLDENS = {
    ("mbpp 3-shot", "minis"): "bf1119860e2e3769e9007392ca692274"
    "ef7c12b4f5fa8b38f063cc0f5a0d2fef",
    ("mbpp zero-shot", "minis"): "a0ec43f3494c5c8ebc81f470669c2761"
    "dfe085983ccd5c522eb2adc1ea30d1d7",
    ("humaneval", "minis"): "344906ad5f684f001500f85b6bd82523"
    "93c3f86cb9956da843c01a386d61b138",
    ("humaneval stripped", "minis"): "b84a408b1f84f4f2e64b8d8a304307f5"
    "dfd08faa7ac31b4f7c1b0860e4d0f3b0",
    ("mbpp 3-shot", "real"): "ced3e319ebe441b22ed3d3322cc875d6"
    "2d45664576ffa4b39f4f8675eaf632b8",
    ("mbpp zero-shot", "real"): "6efdaa7e80c8fc16a1cebbbbb6f098d9"
    "82785141a23e80b088766a9f086be43d",
    ("humaneval", "real"): "eb2a2b2910a647f5a3f42a4cffba0ceb"
    "7909410a6ab0894d9b290e142b66cc8b",
    ("humaneval stripped", "real"): "cae6e51660c106865c3d5e568189f8ee"
    "b133d276cafb8c4f48b696034947a431",
}
# What a stop list cuts of reference solutions, and why it stays: it is BigCode's.
CUT = {("mbpp zero-shot", "342")}  # `class Node` after an import


def problems(task, source):
    """Of the minis, or all splits of the real data."""
    if source == "minis":
        return load_problems(task, "minis")
    if not (DATA / task).is_dir():
        pytest.skip(f"needs {task} in ../shared/data")
    splits = ["test", "validation", "train"] if task == "mbpp" else ["test"]
    found = [load_problems(task, str(DATA / task), split=x) for x in splits]
    return [problem for split in found for problem in split]


@pytest.mark.parametrize("name, source", GOLDENS)
def test_prompts_are_those_of_the_harnesses(name, source):
    (form,) = (form for form in FORMS if form.name == name)
    task = form.tasks[0]
    found = problems(task, source)[:500]  # MBPP's test split comes first
    texts = json.dumps([form.text(problem) for problem in found])
    assert hashlib.sha256(texts.encode()).hexdigest() == GOLDENS[name, source]


@pytest.mark.parametrize(
    "task, name",
    [("mbpp", "mbpp zero-shot"), ("humaneval", "humaneval"), ("contest", "contest")],
)
def test_a_form_is_what_examples_train(task, name):
    """A model that was trained on examples meets the same text again."""
    form, minis = find_form(task, name), files("shared.data").joinpath("minis", task)
    examples = read_examples(minis.joinpath("test_mini.jsonl"), task).rows
    made = [(form.text(x), form.gold(x)) for x in load_problems(task, "minis")]
    assert made == [(x["prompt"], x["completion"]) for x in examples]


def test_the_shots_keep_their_ends_of_line():
    assert len(shots()) == 1504 and shots().count("\r\n") == 11
    assert shots().count("[BEGIN]\n") == shots().count("\n[DONE]\n\n") == 3
    assert "return (res) \n[DONE]\n\nYou are an expert" in shots()


@pytest.mark.parametrize("source", ["minis", "real"])
def test_no_stop_list_cuts_a_reference(source):
    found = set()
    for form in FORMS:
        for task in form.tasks:
            if task.endswith("_plus") or (source == "real" and task == "contest"):
                continue
            for problem in problems(task, source):
                program = form.program(problem, form.gold(problem) + "\n\n")
                whole = reference(problem).rstrip()
                if not program.rstrip().endswith(whole[-len(problem.solution) :]):
                    found.add((form.name, problem.id))
    assert found == (CUT if source == "real" else set())


@pytest.mark.parametrize(
    "task, name, completion, program",
    [
        ("mbpp", "mbpp 3-shot", "x = 1\n[DONE]\n\nYou are", "x = 1\n"),
        ("mbpp", "mbpp 3-shot", "x = 1\nclass A: 1", "x = 1\nclass A: 1"),
        ("mbpp", "mbpp zero-shot", "x = 1\nassert f", "PROMPTx = 1"),
        ("humaneval", "humaneval", "    return 1\n# x\ndef", "PROMPT    return 1"),
        ("humaneval", "humaneval stripped", "\n    x\n@a", "PROMPT\n    x"),
        ("contest", "contest", 'print(1)\n"""\nNext', "print(1)"),
        ("contest", "chat", "So:\n```py\nprint(1)\n```\n```\n2\n```", "print(1)\n"),
        ("mbpp", "chat", "print(1)", "print(1)"),
    ],
)
def test_programs_of_completions(task, name, completion, program):
    form, problem = find_form(task, name), load_problems(task, "minis")[0]
    expected = program.replace("PROMPT", form.text(problem))
    assert form.program(problem, completion) == expected


def test_a_chat_may_answer_with_the_function_or_with_its_body():
    problem, form = (
        load_problems("humaneval", "minis")[0],
        find_form("humaneval", "chat"),
    )
    whole = reference(problem)
    for block in (whole, problem.solution):
        program = form.program(problem, f"Here:\n\n```python\n{block}```\nDone.")
        names: dict = {}
        exec(program, names)
        assert names[problem.entry_point]([10, 12, 19, 20]) == 1


def test_texts_that_are_cut():
    assert cut("a[DONE]b[DONE]", ["[DONE]"]) == "a"
    assert cut("abc", ["x", "bc", "b"]) == "a"
    assert cut("abc", []) == "abc"
    assert fenced("```\nx\n") == "x\n"
    assert fenced("no `block`") == "no `block`"
    assert fenced("  ```python\n    x\n  ```") == "    x\n"


def test_forms_are_told_apart():
    assert len({form.name for form in FORMS}) == len(FORMS)
    assert find_form("mbpp").name == "mbpp 3-shot"
    assert find_form("humaneval_plus").name == "humaneval"
    with pytest.raises(ValueError) as refused:
        find_form("mbpp", "humaneval")
    assert str(refused.value) == (
        "the prompt form of mbpp must be one of mbpp 3-shot, mbpp zero-shot, chat, "
        "got 'humaneval'"
    )


def test_room_for_a_completion():
    assert find_form("mbpp").room(300) == 256
    assert find_form("humaneval").room(300) == 1024
    zero_shot = find_form("mbpp", "mbpp zero-shot")
    assert [zero_shot.room(x) for x in (100, 512, 600)] == [412, 0, 0]
