"""Whatever settings, lines and bodies hold: one line says what is wrong, at once."""

import json
from itertools import chain
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from shared.card.facts import read_summary
from shared.comparison.grid.estimate import _lines as read_took
from shared.comparison.grid.found import read_plan
from shared.config.layers import build, flatten, leaves, read_layer
from shared.config.original_names import names as original_names
from shared.data.examples import FORMATS, read_examples
from shared.data.tokenizer import load_tokenizer
from shared.decoding.kept_lines import KeptLines
from shared.decoding.prompt_rows import prompt_ids, read_prompts
from shared.evaluation.results.kept import read_results, read_settings
from shared.evaluation.tasks.loading import load_problems
from shared.evaluation.tasks.problems import TASKS
from shared.inspection.in_training import read_lines
from shared.run.command_line import HELP, parse
from shared.serving import chat, completions
from shared.serving.answers import json_bytes
from shared.serving.fields import read_body
from shared.serving.refusals import Refused
from shared.state import run_folder
from shared.tracking.tracking import read_metrics
from tests.policy.fuzzing import (
    NUMBERS,
    PIECES,
    TEXTS,
    VALUES,
    as_json,
    changed,
    harmed,
    known,
    often,
    only,
)
from tests.serving import test_bodies
from tests.test_before_rooms import BEFORE

BYTES = load_tokenizer("bytes")
talker = test_bodies.talker


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# --- settings ------------------------------------------------------------------------

RIGHT = (BEFORE / "trained" / "wmtp_jax" / "config.yaml").read_bytes()
FIELDS = list(leaves())
KEYS = [*{part for x in (*FIELDS, *original_names()) for part in x.split(".")}]
TREES = st.recursive(
    known(KEYS), lambda inner: known(KEYS, VALUES | inner), max_leaves=4
)
# PyYAML writes no half characters.
WRITTEN = TREES.map(lambda tree: yaml.safe_dump(json.loads(json.dumps(tree))).encode())
RAW = st.lists(st.sampled_from([*PIECES, *(f"\n{k}: ".encode() for k in KEYS)])).map(
    b"".join
)


@often(20, 2000)
def test_files_of_settings(tmp_path, examples):
    path = tmp_path / "r.yaml"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        build(read_layer(path, {}))

    only(ValueError, harmed(RIGHT) | RAW | WRITTEN, read, examples)


OPTIONS = [f"--{path.replace('_', '-')}" for path in FIELDS]
WORDS = st.one_of(
    TEXTS,
    NUMBERS.map(str),
    st.sampled_from(["--", "-", "true", "no", "1e999", "--no-verbose", "=", "²"]),
)


@often(15, 2000)
def test_options(monkeypatch, examples):
    # No name may be looked up on the hub, however it is spelled.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    option = st.sampled_from(OPTIONS)
    pairs = st.tuples(option, WORDS).map(list) | st.builds(
        lambda name, word: [f"{name}={word}"], option, WORDS
    )
    given = st.lists(pairs | WORDS.map(lambda x: [x]), max_size=4)
    argv = given.map(lambda words: [x for x in chain(*words) if x not in HELP])
    only(ValueError, argv, lambda words: parse(words, "train"), examples)


@often(20, 2000)
def test_fields(examples):
    def check(layer: dict[str, Any]) -> None:
        cfg = build(layer)
        assert flatten(cfg).keys() == set(FIELDS)

    whole = st.integers() | st.sampled_from([10**18, 10**400, -1, 0])
    numbers = [x for x in FIELDS if leaves()[x].type in (int, float)]

    def of(path: str) -> Any:
        real = leaves()[path].type is float
        return st.floats() if real else whole

    layers = st.dictionaries(st.sampled_from(numbers), st.none(), max_size=4)
    drawn = layers.flatmap(
        lambda names: st.fixed_dictionaries({x: of(x) for x in names})
    )
    only(ValueError, drawn, check, examples)


# --- lines of JSON -------------------------------------------------------------------

TESTS = {"input": ["1\n"], "output": ["2\n"]}
ROW: dict[str, Any] = {
    "task_id": 11,
    "text": "Add.",
    "code": "def f(): pass",
    "test_list": ["assert f()"],
    "test": "def check(f): pass",
    "entry_point": "f",
    "prompt": "def f():\n",
    "canonical_solution": "    pass\n",
    "name": "a",
    "description": "b",
    "public_tests": TESTS,
    "solution": "print(2)",
    "solutions": {"language": [3], "solution": ["print(2)"]},
    "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ],
    "completion": "pass",
    "n": 2,
    "c": 1,
    "bits": 3.5,
    "bytes": 4,
    "passed": True,
    "completions": [],
    "step": 1,
    "split": "train",
    "id": "x",
}
LINES = changed(ROW).map(as_json) | harmed(as_json(ROW)) | VALUES.map(as_json)
FILES = st.lists(LINES, min_size=1, max_size=3).map(b"\n".join)


@often(12, 1000)
@pytest.mark.parametrize("format", [*FORMATS, "auto"])
def test_lines_of_examples(tmp_path, format, examples):
    path = tmp_path / "x.jsonl"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        for row in read_examples(path, format).rows:
            BYTES.document(row["prompt"], row["completion"])

    only(ValueError, FILES, read, examples)


@often(6, 1000)
@pytest.mark.parametrize("task", TASKS)
def test_lines_of_problems(tmp_path, task, examples):
    path = tmp_path / "x.jsonl"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        load_problems(task, str(path))

    only(ValueError, FILES, read, examples)


@often(20, 2000)
def test_lines_of_prompts(tmp_path, talker, examples):
    path = tmp_path / "x.jsonl"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        for row in read_prompts(path):
            for chats in (False, True):
                prompt_ids(talker.tokenizer, row, chats, "prompt 1")

    only(ValueError, FILES, read, examples)


# --- what a run or a comparison has left ---------------------------------------------

# File -> a right content of it, and what reads it.
LEFT: dict[str, tuple[dict[str, Any], Any]] = {
    "inputs.json": (
        {"backend": "a", "tokenizer": "b"},
        lambda x: (
            run_folder.check_inputs(x, {"tokenizer": "b"}),
            run_folder.check_backend(x, "a", ""),
        ),
    ),
    "origin.json": ({"folder": "a", "header": "b"}, run_folder.origin_of),
    "summary.json": ({"steps": 3}, read_summary),
    "metrics.jsonl": (
        {"step": 3, "nll": 2.5, "rate": "inf"},
        lambda x: read_metrics(x / "metrics.jsonl"),
    ),
    "a.jsonl": (ROW, lambda x: read_results(x / "a.jsonl")),
    "a.settings.json": ({"task": "mbpp"}, lambda x: read_settings(x / "a.jsonl")),
    "a.jsonl.partial": ({"a": 1}, lambda x: KeptLines(x / "a.jsonl", {"a": 1})),
    "took.jsonl": (
        {"arm": "a", "what": "train", "seconds": 1.5},
        lambda x: list(read_took(x / "took.jsonl")),
    ),
    "training.jsonl": (
        {"step": 1, "of": {}},
        lambda x: read_lines(x / "training.jsonl", 3),
    ),
}


@often(15, 1000)
@pytest.mark.parametrize("name", LEFT)
def test_files_that_a_run_has_left(tmp_path, name, examples):
    right, read = LEFT[name]

    def check(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        read(tmp_path)

    contents = changed(right).map(as_json) | harmed(as_json(right) + b"\n")
    only(ValueError, contents | FILES, check, examples)


ARM = {"name": "a", "kind": "trained", "options": [], "of": "", "folder": ""}
COST = {"steps": 1, "tokens": 1, "flops": 1}
PLAN: dict[str, Any] = {
    "backend": "wmtp_jax",
    "model": "m",
    "data": "d",
    "options": [],
    "evaluate": [],
    "tasks": ["mbpp"],
    "ks": [1],
    "budget": {"kind": "steps", "amount": 1, "preparing": "counts"},
    "arms": [ARM],
    "shares": {"a": {"steps": 1, "step": COST, "before": COST}},
    "members": [{"arm": "a", "name": "a-1", "seed": 1, "command": []}],
    "machine": {},
}


@often(30, 2000)
def test_plans(tmp_path, examples):
    file = tmp_path / "plan.json"

    def read(content: bytes) -> None:
        file.write_bytes(content)
        read_plan(tmp_path)

    file.write_bytes(as_json(PLAN))
    assert read_plan(tmp_path).members  # so that what follows is refused for its harm
    only(ValueError, changed(PLAN).map(as_json) | harmed(as_json(PLAN)), read, examples)


ELSEWHERE = ["../x", "/x", "a/b", "..", ".x", "a\0", "a\nb", "a b", "a\\b", "x" * 201]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_plan_names_no_place_elsewhere(tmp_path, name):
    member = PLAN["members"][0]
    for change in (
        {"tasks": [name]},
        {"members": [member | {"name": name}]},
        {"members": [member | {"evaluated": name}]},
    ):
        (tmp_path / "plan.json").write_bytes(as_json(PLAN | change))
        with pytest.raises(ValueError, match="is no plain name"):
            read_plan(tmp_path)


# --- bodies of requests --------------------------------------------------------------

BODY: dict[str, Any] = {
    "model": "small",
    "prompt": "a",
    "max_tokens": 3,
    "n": 2,
    "seed": 1,
    "stop": ["x"],
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.1,
    "stream": True,
    "stream_options": {"include_usage": True},
    "logprobs": 2,
    "echo": True,
    "logit_bias": {},
}
TALK: dict[str, Any] = {
    name: x for name, x in BODY.items() if name not in ("prompt", "echo", "logprobs")
}
TALK |= {"messages": [{"role": "user", "content": "a"}], "logprobs": True}
FORMS = {"completions": (completions, BODY), "chat": (chat, TALK)}


@often(60, 5000)
@pytest.mark.parametrize("name", FORMS)
def test_bodies(talker, name, examples):
    form, right = FORMS[name]
    form.read(read_body(as_json(right)), talker)  # so that a harmed one is near it

    def read(body: bytes) -> None:
        try:
            form.read(read_body(body), talker)
        except Refused as error:
            assert 400 <= error.status < 500
            json_bytes(error.body())  # can be sent
            raise

    bodies = changed(right).map(as_json) | harmed(as_json(right)) | VALUES.map(as_json)
    only(Refused, bodies, read, examples)
