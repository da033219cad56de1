"""JSON lines -> examples: a prompt and its completion, in four formats.

Errors name the file and the line. `\\r\\n` becomes `\\n` in prompts and completions.
"""

import json
import re
from collections.abc import Callable, Iterator
from importlib.resources.abc import Traversable
from typing import Any

Example = dict[str, str]  # id, prompt, completion


def _is_text(x: object) -> bool:
    return isinstance(x, str)


def _is_id(x: object) -> bool:
    return isinstance(x, (str, int)) and not isinstance(x, bool)


def _is_texts(x: object) -> bool:
    return isinstance(x, list) and len(x) > 0 and all(map(_is_text, x))


def _is_tests(x: object) -> bool:
    if not isinstance(x, dict):
        return False
    given, expected = x.get("input", []), x.get("output", [])
    return _is_texts(given) and _is_texts(expected) and len(given) == len(expected)


Kind = tuple[str, Callable[[object], bool]]
ID: Kind = ("a string or an integer", _is_id)
TEXT: Kind = ("a string", _is_text)
TEXTS: Kind = ("a list of at least one string", _is_texts)
TESTS: Kind = ("{input, output}, two equally long lists of strings", _is_tests)

# Keys that a line must have, and what they hold. `auto` takes the first that fits.
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
}


def read_examples(file: Traversable, format: str) -> list[Example]:
    """The examples of one file, in order.

    Args:
      file: JSON lines in UTF-8; blank lines are skipped.
      format: a key of `FORMATS`, or `auto`, decided on the first line's keys.

    Returns:
      Dicts with id, prompt and completion.

    Raises:
      ValueError: if the file is missing, unreadable or empty, or a line is not JSON,
        not an object, lacks a key, holds a wrong type or repeats an id.
    """
    examples: list[Example] = []
    lines: dict[str, int] = {}
    for number, row in read_lines(file):
        where = f"{file}, line {number}"
        if format == "auto":
            format = _find_format(row, where)
        _check_row(row, format, where)
        example = _to_example(row, format, len(examples))
        try:
            "".join(example.values()).encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{where}: text must be valid Unicode, got half of a surrogate pair"
            ) from None
        if (before := lines.setdefault(example["id"], number)) != number:
            raise ValueError(
                f"{where}: ids must be unique, got {example['id']!r} again, which "
                f"line {before} has"
            )
        examples.append(example)
    return examples


def read_lines(file: Traversable) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number (from 1) and object of each line of a JSON lines file.

    Raises:
      ValueError: if the file is missing, unreadable or empty, or a line is not a JSON
        object in UTF-8.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(
            f"data needs {file} as a readable file of JSON lines, got: "
            f"{error.strerror or error}"
        ) from None
    found = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = True
        yield number, _parse(line, f"{file}, line {number}")
    if not found:
        raise ValueError(f"{file} must have at least one line, got an empty file")


def is_even(example_id: str, row: int) -> bool:
    """Whether the integer that ends an id is even; without one, the row's number.

    Example:
      >>> [is_even(i, 1) for i in ("512", "HumanEval/13", "mbpp_14", "sum2")]
      [True, False, True, False]
    """
    ending = re.fullmatch(r"(?:.*[/_-])?[0-9]*([0-9])", example_id, re.DOTALL)
    return (int(ending[1]) if ending else row) % 2 == 0


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: must be UTF-8, got {error.reason}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: must be a JSON object, got: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: must be a JSON object, got {type(row).__name__}")
    return row


def _find_format(row: dict[str, Any], where: str) -> str:
    for name, keys in FORMATS.items():
        if keys.keys() <= row.keys():
            return name
    known = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in FORMATS.items())
    raise ValueError(f"{where}: must have the keys of a format ({known}), got {[*row]}")


def _check_row(row: dict[str, Any], format: str, where: str) -> None:
    keys = FORMATS[format]
    if missing := [key for key in keys if key not in row]:
        raise ValueError(
            f"{where}: format {format} must have the keys {', '.join(keys)}, got "
            f"{[*row]} without {', '.join(missing)}"
        )
    optional = {"id": ID} if format == "completion" and "id" in row else {}
    for key, (kind, holds) in (keys | optional).items():
        if not holds(row[key]):
            got = repr(row[key])
            got = got if len(got) <= 60 else f"{got[:57]}..."
            raise ValueError(f"{where}: {key!r} must be {kind}, got {got}")


def _to_example(row: dict[str, Any], format: str, number: int) -> Example:
    match format:
        case "mbpp":
            # The zero-shot prompt of the BigCode evaluation harness.
            text = f"{row['text']}\n{row['test_list'][0]}"
            parts = row["task_id"], f'"""\n{text}\n"""\n', row["code"]
        case "humaneval":
            parts = row["task_id"], row["prompt"], row["canonical_solution"]
        case "contest":
            text = row["description"]
            parts = row["name"], f'"""\n{text}\n"""\n', row["solution"]
        case _:
            parts = row.get("id", number), row["prompt"], row["completion"]
    example_id, prompt, completion = parts
    return {
        "id": str(example_id),
        "prompt": prompt.replace("\r\n", "\n"),
        "completion": completion.replace("\r\n", "\n"),
    }
