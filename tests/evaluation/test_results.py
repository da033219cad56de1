"""Results kept and read back, of other tools too, and the table made of them."""

import json
from dataclasses import replace

import pytest

from shared.evaluation.results.intervals import mean_interval, wilson
from shared.evaluation.results.kept import (
    KeptResults,
    Settings,
    read_results,
    read_settings,
)
from shared.evaluation.results.of_problems import (
    Completion,
    HeadMeasure,
    ProblemResult,
    bits_per_byte,
    judged,
    paired,
    pass_values,
    total_bits_per_byte,
)
from shared.evaluation.results.table import (
    difference_row,
    pass_interval,
    table_columns,
    table_row,
)
from shared.evaluation.verdicts import Result, Verdict

SETTINGS = Settings(
    task="mbpp",
    source="minis",
    split="test",
    num_problems=3,
    model="here",
    model_digest="abc",
    dtype="float32",
    batch_size=8,
    form="mbpp 3-shot",
    prompts_digest="def",
    stop=("[DONE]",),
    max_tokens=256,
    sampling={"temperature": 0.2},
    samples=4,
    seeds=(0, 1, 2),
    level="namespaces",
    limits={"cpu_seconds": 3.0},
    versions={"jax": "0"},
)
WRONG = Completion(text="x\u2028=", tokens=3, finish="stop", outcome="wrong", error="ü")
RESULTS = [
    ProblemResult(
        id="11",
        n=4,
        c=1,
        timed_out=1,
        level="namespaces",
        completions=(WRONG, replace(WRONG, outcome="timed out", retried=True)),
        bits=12.5,
        bytes=10,
        heads=(HeadMeasure(nll=8.66, targets=5, right=2, rank=17),),
    ),
    ProblemResult(id="12", n=4, bits=0.0, bytes=20),
    ProblemResult(id="13", n=4, c=4, bits=30.0, bytes=30),
]
VERDICT = Verdict(
    passed=True,
    results=(Result(outcome="passed"),),
    level="namespaces",
    seconds=0.1,
    cpu_seconds=0.1,
)


def file_of(folder, *lines):
    file = folder / "results.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_they_come_back_as_they_were(tmp_path):
    path = tmp_path / "mbpp.jsonl"
    kept = KeptResults(path, SETTINGS, "--to")
    kept.add(RESULTS[0])
    kept = KeptResults(path, SETTINGS, "--to")  # after an interruption
    assert kept.results == RESULTS[:1] and not kept.finished
    for result in RESULTS[1:]:
        kept.add(result)
    kept.finish()
    assert read_results(path) == kept.results == RESULTS
    found = read_settings(path)
    assert found["timed_out"] == 1 and found["stop"] == ["[DONE]"]
    assert sorted(x.name for x in tmp_path.iterdir()) == [
        "mbpp.jsonl",
        "mbpp.settings.json",
    ]
    again = KeptResults(path, SETTINGS, "--to")
    again.finish()
    assert again.finished and again.results == RESULTS


def test_other_settings_are_refused(tmp_path):
    path, other = tmp_path / "mbpp.jsonl", replace(SETTINGS, dtype="bfloat16", seeds=())
    kept = KeptResults(path, SETTINGS, "--to")
    kept.add(RESULTS[0])
    with pytest.raises(ValueError, match=r"^--to must .* got other dtype, seeds \("):
        KeptResults(path, other, "--to")
    kept.finish()
    with pytest.raises(ValueError, match=r"^--to must .* got other dtype, seeds in "):
        KeptResults(path, other, "--to")
    (tmp_path / "mbpp.settings.json").unlink()
    with pytest.raises(ValueError, match=r"same settings, got none in .*settings.json"):
        KeptResults(path, SETTINGS, "--to")
    (tmp_path / "mbpp.settings.json").write_text("[]")
    with pytest.raises(ValueError, match="must be a JSON object, got list"):
        read_settings(path)


def test_files_of_other_tools(tmp_path):
    problems = [
        {"task_id": 11, "n": 2, "c": 1, "completions": ["a", "b"], "level": 3},
        {"task_id": "HumanEval/1", "n": 1, "c": 0, "rate": 0.5},
    ]
    found = read_results(file_of(tmp_path, *problems))
    assert found == [
        ProblemResult(id="11", n=2, c=1),
        ProblemResult(id="HumanEval/1", n=1),
    ]
    samples = [("a", True), ("b", False), ("a", False), ("a", True)]
    lines = [{"task_id": x, "completion": "", "passed": y} for x, y in samples]
    found = read_results(file_of(tmp_path, *lines))
    assert [(x.id, x.n, x.c) for x in found] == [("a", 3, 2), ("b", 1, 0)]
    assert read_settings(tmp_path / "results.jsonl") == {}
    found = read_results(file_of(tmp_path, {"task_id": "a", "bits": 8, "bytes": 4}))
    assert bits_per_byte(found) == [2] and found[0].n == 0


@pytest.mark.parametrize(
    "lines, said",
    [
        ([{"n": 1, "c": 1}], "line 1: a result must have the keys task_id, n, c, got"),
        ([{"task_id": "a", "n": 1}], "without c"),
        ([{"task_id": "a", "bits": 1.0}], "task_id, bits, bytes, got"),
        (
            [{"task_id": "a", "n": 2, "c": 3}],
            "0 to n, got 3 and 0 of n = 2 (a)",
        ),
        ([{"task_id": "a", "n": 2, "c": 1.5}], "'c' must be an integer >= 0, got 1.5"),
        ([{"task_id": "a", "passed": 1}], "'passed' must be true or false, got 1"),
        ([{"task_id": "a", "bits": float("nan"), "bytes": 1}], "finite, got nan (a)"),
        (
            [{"task_id": "a", "bits": 1, "bytes": 0}],
            "one byte, got 1 of 0 (a)",
        ),
        ([{"task_id": "a", "n": 1, "c": 1}] * 2, "line 2: task_id must be unique"),
        (
            [{"task_id": "a", "n": 1, "c": 1}, {"task_id": "b", "passed": True}],
            "of samples (passed), got both",
        ),
        (["no"], "line 1: must be a JSON object, got str"),
    ],
)
def test_a_wrong_line_is_one_line(tmp_path, lines, said):
    with pytest.raises(ValueError) as refused:
        read_results(file_of(tmp_path, *lines))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_samples_that_were_judged():
    late = replace(VERDICT, passed=False, retried=True)
    late = replace(
        late,
        results=(
            Result(outcome="passed"),
            Result(outcome="timed out", error="slow"),
            Result(outcome="not run"),
        ),
    )
    found = judged("7", [VERDICT, late], [("a", 1, "stop"), ("b", 9, "length")])
    assert (found.n, found.c, found.timed_out) == (2, 1, 1)
    assert found.level == "namespaces"
    assert [x.outcome for x in found.completions] == ["passed", "timed out"]
    assert found.completions[1] == Completion(
        text="b",
        tokens=9,
        finish="length",
        outcome="timed out",
        error="slow",
        retried=True,
    )


def test_any_k_can_be_computed_again():
    assert pass_values(RESULTS, 1) == [0.25, 0, 1]
    assert pass_values(RESULTS, 2) == [0.5, 0, 1]
    with pytest.raises(ValueError) as refused:
        pass_values(RESULTS, 5)
    assert str(refused.value) == (
        "pass@5 must be of at least 5 samples of a problem, got 4 of 11"
    )
    greedy = [replace(x, n=1, c=x.c // 4, timed_out=0) for x in RESULTS]
    assert pass_interval(greedy, 1) == wilson(1, 3)
    assert pass_interval(RESULTS, 2) == mean_interval([0.5, 0, 1], share=True)


def test_bits_of_problems_and_of_all():
    assert bits_per_byte(RESULTS) == [1.25, 0, 1]
    assert total_bits_per_byte(RESULTS) == 42.5 / 60
    with pytest.raises(ValueError, match="measured of each problem, not 9"):
        total_bits_per_byte([*RESULTS, ProblemResult(id="9", n=1)])


def test_only_the_same_problems_are_paired():
    assert paired(RESULTS[:2], RESULTS[1::-1]) == [(x, x) for x in RESULTS[:2]]
    with pytest.raises(ValueError) as refused:
        paired(RESULTS[:2], RESULTS[1:])
    assert str(refused.value) == (
        "two files must be of the same problems to be paired, got 2 in only one of "
        "them (11, 13)"
    )


def test_rows_of_a_table():
    columns = ["task", "problems", "pass@1", "pass@4", "bits per byte"]
    assert table_columns([1, 4]) == [*columns, "timed out", "to show"]
    row = table_row("mbpp", RESULTS, [4])
    assert row == [
        *("mbpp", 3, "41.7 % [0.0, 100.0]", "66.7 % [0.0, 100.0]"),
        *("0.7500 [-0.8931, 2.3931]", 1, "> 100 points"),
    ]
    bits = [replace(x, n=0, c=0, timed_out=0) for x in RESULTS]
    assert table_row("bits", bits, [4])[2:] == ["-", "-", row[4], "-", "-"]
    plain = [ProblemResult(id=str(i), n=1, c=i < 2) for i in range(100)]
    assert table_row("x", plain, [])[2:] == ["2.0 % [0.6, 7.0]", "-", 0, "5.6 points"]
    with pytest.raises(ValueError, match="at least 16 samples"):
        table_row("mbpp", RESULTS, [16])


def test_a_row_of_two_files():
    better = [replace(x, c=min(4, x.c + 1), bits=x.bits + 10) for x in RESULTS]
    row = difference_row("a - b", better, RESULTS, 1)
    assert row[:3] == ["a - b", 3, "16.7 points [-19.2, 52.5]"]
    assert row[3:] == ["0.6111 [-0.2507, 1.4730]", "23.3 points"]
    same = difference_row("same", RESULTS, RESULTS, 1)
    assert same[2] == "0.0 points [-56.1, 56.1]"
