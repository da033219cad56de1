"""Formats of JSON lines; every error names file, line and what is required."""

import json

import pytest

from shared.data.examples import Examples, convert_rows, read_examples

MBPP = {
    "task_id": 7,
    "text": "Write a function to add.",
    "code": "def add(a, b):\r\n    return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
    "challenge_test_list": [],
}
HUMANEVAL = {
    "task_id": "HumanEval/3",
    "prompt": "def f(x):\n",
    "canonical_solution": "    return x\n",
    "entry_point": "f",
    "test": "",
}
CONTEST = {
    "name": "sum of two",
    "description": "Print the sum.",
    "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
    "solution": "print(sum(map(int, input().split())))",
}
# As deepmind/code_contests has it; `language` is an enum, and tests may be empty.
SOLVED = {
    "name": "1_A. Sum",
    "description": "Print the sum.",
    "public_tests": {"input": [], "output": []},
    "solutions": {
        "language": [2, 1, 3, 3, 4],
        "solution": ["int main() {}", "print 1", "first()", "second()", "class A {}"],
    },
}
COMPLETION = {"prompt": "ab", "completion": "cde"}
# MBPP's sanitized half has `prompt` for `text`, and imports that the tests need.
SANITIZED = {
    "source_file": "Benchmark Questions Verification V2.ipynb",
    "task_id": 602,
    "prompt": "Write a python function to find the first repeated character.",
    "code": "def first_repeated_char(s):\r\n    return s[0]",
    "test_imports": [],
    "test_list": ['assert first_repeated_char("abcabc") == "a"'],
}
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Add."},
    {"role": "assistant", "content": "a +\r\nb"},
]
MESSAGES = {"messages": TALK}
ROWS = {
    "mbpp": MBPP,
    "humaneval": HUMANEVAL,
    "contest": CONTEST,
    "completion": COMPLETION,
    "messages": MESSAGES,
}


def write(folder, *rows):
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "name, example",
    [
        (
            "mbpp",
            {
                "id": "7",
                "prompt": '"""\nWrite a function to add.\nassert add(1, 2) == 3\n"""\n',
                "completion": "def add(a, b):\n    return a + b",
            },
        ),
        (
            "humaneval",
            {
                "id": "HumanEval/3",
                "prompt": "def f(x):\n",
                "completion": "    return x\n",
            },
        ),
        (
            "contest",
            {
                "id": "sum of two",
                "prompt": '"""\nPrint the sum.\n"""\n',
                "completion": "print(sum(map(int, input().split())))",
            },
        ),
        ("completion", {"id": "0", "prompt": "ab", "completion": "cde"}),
        (
            "messages",
            {
                "id": "0",
                "prompt": "Be short.\nAdd.",
                "completion": "a +\nb",
                "messages": [*TALK[:2], {"role": "assistant", "content": "a +\nb"}],
            },
        ),
    ],
)
def test_formats(tmp_path, name, example):
    file = write(tmp_path, ROWS[name])
    assert read_examples(file, "auto") == Examples([example], name)
    assert read_examples(file, name) == Examples([example], name)


def test_the_sanitized_mbpp(tmp_path):
    statement, test = SANITIZED["prompt"], SANITIZED["test_list"][0]
    example = {
        "id": "602",
        "prompt": f'"""\n{statement}\n{test}\n"""\n',
        "completion": "def first_repeated_char(s):\n    return s[0]",
    }
    file = write(tmp_path, SANITIZED)
    assert read_examples(file, "auto") == Examples([example], "mbpp")
    for key, missing in {"prompt": "text", "code": "code"}.items():
        rest = {name: value for name, value in SANITIZED.items() if name != key}
        with pytest.raises(
            ValueError, match=f"line 2: format mbpp .* without {missing}"
        ):
            read_examples(write(tmp_path, SANITIZED, rest), "auto")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user"},
        {"role": "user", "content": 3},
        {"role": "</s>", "content": ""},
        {"role": "user", "content": "", "tool_calls": []},
        "text",
    ],
)
def test_messages_are_a_role_and_a_text(tmp_path, message):
    file = write(tmp_path, {"messages": [TALK[1], message]})
    with pytest.raises(ValueError, match=r"line 1: 'messages' must be a list of {role"):
        read_examples(file, "auto")
    of_a_table = {"messages": [{**TALK[1], "tool_calls": None}]}
    (row,) = read_examples(write(tmp_path, of_a_table), "auto").rows
    assert row["messages"] == TALK[1:2]


def test_characters_that_are_kept_for_programs_are_refused(tmp_path):
    file = write(tmp_path, COMPLETION, COMPLETION | {"completion": "a\ufdd01\ufdd1"})
    with pytest.raises(ValueError, match=r"line 2: text must have no .* got U\+FDD0"):
        read_examples(file, "auto")


def test_the_first_solution_in_python_3_is_taken(tmp_path):
    other = {"language": [0, 1, 2, 4], "solution": ["a", "b", "c", "d"]}
    none = {"language": [], "solution": []}
    rows = [
        SOLVED | {"name": "other", "solutions": other},
        SOLVED,
        SOLVED | {"name": "none", "solutions": none},
    ]
    found = read_examples(write(tmp_path, *rows), "auto")
    prompt = '"""\nPrint the sum.\n"""\n'
    row = {"id": "1_A. Sum", "prompt": prompt, "completion": "first()"}
    assert found == Examples([row], "contest", num_left_out=2)
    # `solution` wins, so that a file of ours may carry both.
    both = read_examples(write(tmp_path, SOLVED | CONTEST, SOLVED), "auto")
    assert [example["completion"] for example in both.rows] == [
        CONTEST["solution"],
        "first()",
    ]


def test_problems_of_one_name_from_several_sites_are_numbered(tmp_path):
    names = ["sum", "sum", "sum (2)", "sum"]
    rows = [SOLVED | {"name": name} for name in names]
    found = read_examples(write(tmp_path, *rows), "auto")
    expected = ["sum", "sum (2)", "sum (2) (2)", "sum (3)"]
    assert [example["id"] for example in found.rows] == expected


def test_no_row_is_asked_for_after_the_limit():
    def rows():
        left_out = SOLVED | {"solutions": {"language": [], "solution": []}}
        for i, row in enumerate([left_out, SOLVED, SOLVED]):
            yield f"row {i}", row | {"name": f"problem {i}"}
        raise AssertionError("one too many")

    found = convert_rows(rows(), "auto", limit=2)
    assert [example["id"] for example in found.rows] == ["problem 1", "problem 2"]
    assert found.num_left_out == 1


def test_the_first_line_decides_on_the_format(tmp_path):
    both = COMPLETION | {"task_id": 1, "canonical_solution": "other"}
    file = write(tmp_path, both)
    assert read_examples(file, "auto").rows[0]["completion"] == "other"
    assert read_examples(file, "completion").rows[0]["completion"] == "cde"
    with pytest.raises(ValueError, match="line 2: format humaneval must have"):
        read_examples(write(tmp_path, both, COMPLETION), "auto")


@pytest.mark.parametrize("name", ROWS)
def test_every_missing_key_is_named(tmp_path, name):
    needed = set(ROWS[name]) - {"challenge_test_list", "entry_point", "test"}
    for key in needed:
        broken = {k: v for k, v in ROWS[name].items() if k != key}
        file = write(tmp_path, ROWS[name], broken)
        required = rf"train\.jsonl, line 2: format {name} must have .*without {key}$"
        with pytest.raises(ValueError, match=required):
            read_examples(file, "auto")


@pytest.mark.parametrize(
    "row, message",
    [
        (MBPP | {"code": None}, "'code' must be a string, got None"),
        (
            MBPP | {"task_id": True},
            "'task_id' must be a string or an integer, got True",
        ),
        (MBPP | {"task_id": 1.5}, "'task_id' must be a string or an integer, got 1.5"),
        (MBPP | {"test_list": []}, "'test_list' must be a list of at least one string"),
        (MBPP | {"test_list": "abc"}, "'test_list' must be a list of at least one"),
        (MBPP | {"test_list": [3]}, "'test_list' must be a list of at least one"),
        (HUMANEVAL | {"prompt": ["x"]}, "'prompt' must be a string"),
        (CONTEST | {"public_tests": []}, "'public_tests' must be {input, output}"),
        (
            CONTEST | {"public_tests": {"input": ["1"], "output": []}},
            "'public_tests' must be {input, output}",
        ),
        (SOLVED | {"solutions": None}, "'solutions' must be {language, solution}"),
        (
            SOLVED | {"solutions": {"language": [3], "solution": []}},
            "'solutions' must be {language, solution}, equally long lists",
        ),
        (
            SOLVED | {"solutions": {"language": ["3"], "solution": ["pass"]}},
            "'solutions' must be {language, solution}, equally long lists of integers",
        ),
        (SOLVED | {"description": None}, "'description' must be a string"),
        (COMPLETION | {"id": None}, "'id' must be a string or an integer, got None"),
        (COMPLETION | {"completion": 3 * 10**90}, "must be a string, got 3000"),
        (COMPLETION | {"prompt": "\ud800"}, "half of a surrogate pair"),
        ({"question": 1}, "must have the keys of a format"),
    ],
)
def test_wrong_types(tmp_path, row, message):
    with pytest.raises(ValueError) as caught:
        read_examples(write(tmp_path, row), "auto")
    text = str(caught.value)
    assert message in text and "train.jsonl, line 1: " in text
    assert "\n" not in text and len(text) < 500


@pytest.mark.parametrize(
    "line, message",
    [
        (b'{"prompt": "a", ', "must be a JSON object, got: "),
        (b"[1, 2]", "must be a JSON object, got list"),
        (b'"text"', "must be a JSON object, got str"),
        (b'{"prompt": "\xff", "completion": ""}', "must be UTF-8, got invalid start"),
        (b"[" * 100_000, "must be a JSON object, got: "),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "must be a JSON object, got: "),
    ],
)
def test_lines_that_are_no_objects(tmp_path, line, message):
    file = tmp_path / "train.jsonl"
    good = json.dumps(COMPLETION).encode()
    file.write_bytes(good + b"\n\n" + line + b"\n")
    with pytest.raises(ValueError) as caught:
        read_examples(file, "auto")
    assert f"train.jsonl, line 3: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_duplicate_ids_are_an_error(tmp_path):
    rows = [COMPLETION | {"id": 5}, COMPLETION | {"id": 6}, COMPLETION | {"id": "5"}]
    with pytest.raises(ValueError, match=r"line 3: ids must be unique, got '5' again"):
        read_examples(write(tmp_path, *rows), "auto")


def test_line_separators_of_unicode_and_a_byte_order_mark_are_no_trouble(tmp_path):
    file = tmp_path / "train.jsonl"
    text = json.dumps({"prompt": "a\u2028b", "completion": "\x85"}, ensure_ascii=False)
    file.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    row = read_examples(file, "auto").rows[0]
    assert (row["prompt"], row["completion"]) == ("a\u2028b", "\x85")
