"""Prompts as rows of JSON lines, `prompt` or `messages`, and the tokens of each."""

from pathlib import Path
from typing import Any

from shared.data.chat import spell_prompt
from shared.data.examples import check_text
from shared.data.kinds import MESSAGES, check_row, keys_of
from shared.data.tokenizer import Tokenizer
from shared.json_text import parse


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON lines file.

    Raises:
      ValueError: naming the first line that is no object, or if there is none.
    """
    try:
        lines = path.read_text("utf-8").split("\n")  # no other character ends one
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "bytes that are not UTF-8"
        raise ValueError(
            f"--prompts must be a text file, got {path}: {reason}"
        ) from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse(line)
        except ValueError as error:
            raise ValueError(f"{path} must hold JSON lines, got {error} in line "
                             f"{number}") from None  # fmt: skip
        if not isinstance(row, dict):
            raise ValueError(f"{path} must hold objects, got {line[:40]!r} in line "
                             f"{number}")  # fmt: skip
        found.append(row)
    if not found:
        raise ValueError(f"{path} must hold at least one prompt, got none")
    return found


def prompt_ids(
    tokenizer: Tokenizer, row: dict[str, Any], chat: bool, where: str
) -> list[int]:
    """Tokens of one row's prompt; with `chat` laid out by the tokenizer's template."""
    if chat:
        messages = row.get("messages")
        if messages is None and isinstance(row.get("prompt"), str):
            messages = [{"role": "user", "content": row["prompt"]}]
        if not isinstance(messages, list):
            raise ValueError(
                f"{where} must have prompt or messages, got {keys_of(row)}"
            )
        check_row({"messages": messages}, {"messages": MESSAGES}, "a prompt", where)
        check_text("".join(message["content"] for message in messages), where)
        return spell_prompt(tokenizer, messages)
    if not isinstance(row.get("prompt"), str):
        raise ValueError(f"{where} must have a text `prompt`, got {keys_of(row)}")
    check_text(row["prompt"], where)
    ids = tokenizer.encode(row["prompt"])
    return ids or [tokenizer.eos_id]  # nothing else begins a text
