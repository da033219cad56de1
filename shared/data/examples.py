"""Rows -> examples: a prompt and its completion, or the messages of a chat.

Rows are lines of JSON or rows of a hub data set; errors name the file and the line.
`\\r\\n` becomes `\\n` in texts.
"""

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from itertools import chain, count
from typing import Any

from shared.data.kinds import (
    ID,
    MESSAGES,
    SOLUTIONS,
    TESTS,
    TEXT,
    TEXTS,
    Kind,
    Row,
    check_row,
    keys_of,
)
from shared.data.spelling import RESERVED
from shared.files import refuse_pointer
from shared.json_text import parse

# id, prompt, completion; of a chat also `messages`, whose last is the completion and
# whose others are the prompt to whom texts matter, not tokens.
Example = dict[str, Any]
Rows = Iterator[tuple[str, Row]]  # where a row stands, for messages, and the row

PYTHON3 = 3  # in the enum of code_contests: 1 is Python 2, 2 C++, 4 Java


@dataclass(frozen=True)
class Examples:
    """What was read of one file, or of one split of a hub data set, in order.

    Attributes:
      rows: id, prompt and completion of each.
      format: a key of `FORMATS`.
      num_left_out: rows that have no Python 3 solution, and are not in `rows`.
    """

    rows: list[Example]
    format: str
    num_left_out: int = 0


# Keys that a row must have, and what they hold. `auto` takes the first that fits.
FORMATS: dict[str, dict[str, Kind]] = {
    "mbpp": {"task_id": ID, "text": TEXT, "code": TEXT, "test_list": TEXTS},
    "humaneval": {"task_id": ID, "prompt": TEXT, "canonical_solution": TEXT},
    "contest": {
        "name": ID,
        "description": TEXT,
        "public_tests": TESTS,
        "solution": TEXT,
    },
    "completion": {"prompt": TEXT, "completion": TEXT},
    "messages": {"messages": MESSAGES},
}
# MBPP's sanitized half.
SANITIZED: dict[str, Kind] = {
    "task_id": ID,
    "prompt": TEXT,
    "code": TEXT,
    "test_list": TEXTS,
}
# The `contest` layout of deepmind/code_contests: many solutions in many languages. Its
# tests may be empty, and no example needs them.
CODE_CONTESTS: dict[str, Kind] = {
    "name": ID,
    "description": TEXT,
    "solutions": SOLUTIONS,
}


def read_examples(file: Traversable, format: str) -> Examples:
    """The examples of one file of JSON lines in UTF-8; blank lines are skipped.

    Raises:
      ValueError: as `read_lines` and `convert_rows`.
    """
    return convert_rows(read_lines(file), format)


def convert_rows(rows: Rows, format: str, limit: int = 0) -> Examples:
    """Checks rows and makes an example of each.

    Args:
      format: a key of `FORMATS`, or `auto`, decided on the first row's keys.
      limit: first so many examples; no row after them is asked for. 0 takes all.

    Raises:
      ValueError: if a row lacks a key, holds a wrong type or repeats an id.
    """
    examples: list[Example] = []
    seen: dict[str, str] = {}
    num_left_out = 0
    for where, row in rows:
        if format == "auto":
            format = _find_format(row, where)
        _check_row(row, format, where)
        if (example := _to_example(row, format, len(examples))) is None:
            num_left_out += 1
            continue
        check_text("".join(example[x] for x in ("id", "prompt", "completion")), where)
        if _keys(row, format) is CODE_CONTESTS:
            example["id"] = unused_name(example["id"], seen)
        if (before := seen.setdefault(example["id"], where)) != where:
            raise ValueError(
                f"{where}: ids must be unique, got {example['id']!r} again, after "
                f"{before}"
            )
        examples.append(example)
        if len(examples) == limit:
            break
    return Examples(examples, format, num_left_out)


def read_lines(file: Traversable) -> Rows:
    """The object of each line of a JSON lines file.

    Raises:
      ValueError: if the file is missing, unreadable or empty, or a line is not a JSON
        object in UTF-8.
    """
    refuse_pointer(file)
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(
            f"data needs {file} as a readable file of JSON lines, got: "
            f"{error.strerror or error}"
        ) from None
    if not any(line.strip() for line in lines):
        raise ValueError(f"{file} must have at least one line, got an empty file")
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{file}, line {number}"
            yield where, _parse(line, where)


def is_even(example_id: str, row: int) -> bool:
    """Whether the integer that ends an id is even; without one, the row's number.

    Example:
      >>> [is_even(i, 1) for i in ("512", "HumanEval/13", "mbpp_14", "sum2")]
      [True, False, True, False]
    """
    ending = re.fullmatch(r"(?:.*[/_-])?[0-9]*([0-9])", example_id, re.DOTALL)
    return (int(ending[1]) if ending else row) % 2 == 0


def _parse(line: bytes, where: str) -> Row:
    try:
        row = parse(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: must be UTF-8, got {error.reason}") from None
    except ValueError as error:
        raise ValueError(f"{where}: must be a JSON object, got: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: must be a JSON object, got {type(row).__name__}")
    return row


def _keys(row: Row, format: str) -> dict[str, Kind]:
    if format == "contest" and "solution" not in row and "solutions" in row:
        return CODE_CONTESTS
    if format == "mbpp" and "text" not in row and "prompt" in row:
        return SANITIZED
    return FORMATS[format]


def _find_format(row: Row, where: str) -> str:
    for name in FORMATS:
        if _keys(row, name).keys() <= row.keys():
            return name
    known = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in FORMATS.items())
    raise ValueError(
        f"{where}: must have the keys of a format ({known}), got {keys_of(row)}"
    )


def _check_row(row: Row, format: str, where: str) -> None:
    optional = (
        {"id": ID} if format in ("completion", "messages") and "id" in row else {}
    )
    check_row(row, _keys(row, format) | optional, f"format {format}", where)


def unused_name(name: str, seen: Container[str]) -> str:
    """Problems of code_contests come from five sites, whose names may be the same."""
    names = chain([name], (f"{name} ({number})" for number in count(2)))
    return next(name for name in names if name not in seen)


def check_text(text: str, where: str) -> None:
    """Checks that a text can be told to any tokenizer.

    Raises:
      ValueError: if it holds half a character, or one that Unicode keeps for programs.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{where}: text must be valid Unicode, got half of a surrogate pair"
        ) from None
    if found := RESERVED.search(text):
        raise ValueError(
            f"{where}: text must have no character that Unicode keeps for programs, "
            f"got U+{ord(found[0]):04X}"
        )


def _to_example(row: Row, format: str, number: int) -> Example | None:
    """None for a problem without a solution in Python 3."""
    match format:
        case "mbpp":
            # The zero-shot prompt of the BigCode evaluation harness.
            task = row["text"] if "text" in row else row["prompt"]
            text = f"{task}\n{row['test_list'][0]}"
            parts = row["task_id"], f'"""\n{text}\n"""\n', row["code"]
        case "humaneval":
            parts = row["task_id"], row["prompt"], row["canonical_solution"]
        case "contest":
            solution = row["solution"] if "solution" in row else first_python(row)
            if solution is None:
                return None
            parts = row["name"], f'"""\n{row["description"]}\n"""\n', solution
        case "messages":
            return _to_chat(row, number)
        case _:
            parts = row.get("id", number), row["prompt"], row["completion"]
    example_id, prompt, completion = parts
    return {
        "id": str(example_id),
        "prompt": prompt.replace("\r\n", "\n"),
        "completion": completion.replace("\r\n", "\n"),
    }


def _to_chat(row: Row, number: int) -> Example:
    messages = [
        {"role": of["role"], "content": of["content"].replace("\r\n", "\n")}
        for of in row["messages"]
    ]
    *before, last = (message["content"] for message in messages)
    return {
        "id": str(row.get("id", number)),
        "prompt": "\n".join(before),
        "completion": last,
        "messages": messages,
    }


def first_python(row: Row) -> str | None:
    """The first solution in Python 3 of a problem of code_contests."""
    languages, sources = row["solutions"]["language"], row["solutions"]["solution"]
    found = zip(languages, sources, strict=True)
    return next((source for language, source in found if language == PYTHON3), None)
