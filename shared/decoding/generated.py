"""Texts that a model has written itself, kept on disk while and after it writes them.

    KEY/texts.jsonl                       one line a text, as they come
    KEY/train.jsonl, KEY/validation.jsonl  once all are there: a data source

KEY is a digest of all that decides the texts. Whoever stops the writer loses the texts
under way; the next one asks for those that are missing.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.data.chat import ASSISTANT, spell_prompt
from shared.data.examples import Example
from shared.data.tokenizer import Tokenizer
from shared.files import write_text
from shared.json_text import parse

log = logging.getLogger("wmtp")

SPLITS = ("train", "validation")
BEYOND = 8  # tokens past a row's end: a text that would go on is cut there, without eos
SHARE = 10  # texts of the training split for each of the validation split, at least
LEAST = 8  # texts of the validation split, if it has so many prompts


@dataclass(frozen=True)
class Prompt:
    """What a text begins with.

    Attributes:
      split, id: of the example that it is from.
      row: of the data source, but for what the model is to write.
      ids: the tokens that the model sees.
      most: tokens that it may write.
    """

    split: str
    id: str
    row: dict[str, Any]
    ids: tuple[int, ...]
    most: int

    def completed(self, text: str) -> dict[str, Any]:
        """The row with what the model has written."""
        if "messages" not in self.row:
            return {**self.row, "completion": text}
        said = {"role": ASSISTANT, "content": text}
        return {**self.row, "messages": [*self.row["messages"], said]}


def prompts_of(
    examples: dict[str, list[Example]],
    tokenizer: Tokenizer,
    *,
    chat: bool,
    max_length: int,
    most_length: int,
) -> list[Prompt]:
    """The prompts of the training split, and a tenth as many of validation.

    One that leaves no room for a token is left out.

    Args:
      chat: whether a prompt is what a user says, in the tokenizer's chat template.
      max_length: tokens of a row, which each text may fill.
      most_length: tokens that the model can read.

    Raises:
      ValueError: if a split has no prompt with room.
    """
    found: list[Prompt] = []
    for split in SPLITS:
        rows = examples[split]
        if split == "validation":
            rows = rows[: max(LEAST, len(examples["train"]) // SHARE)]
        made = [
            _prompt(split, row, tokenizer, chat, max_length, most_length)
            for row in rows
        ]
        room = [prompt for prompt in made if prompt.most > 0]
        if not room:
            raise ValueError(
                f"prompts must be shorter than data.max_length = {max_length}, got "
                f"none in the split {split}"
            )
        found += room
    return found


def _prompt(
    split: str,
    example: Example,
    tokenizer: Tokenizer,
    chat: bool,
    max_length: int,
    most_length: int,
) -> Prompt:
    messages = example.get("messages")
    row: dict[str, Any] = {"id": example["id"]}
    if messages is not None:
        while messages and messages[-1]["role"] == ASSISTANT:
            messages = messages[:-1]
        row["messages"] = messages
    else:
        row["prompt"] = example["prompt"]
        if chat:
            messages = [{"role": "user", "content": example["prompt"]}]
    if messages is None:
        ids = tokenizer.encode(example["prompt"]) or [tokenizer.eos_id]
    else:
        ids = spell_prompt(tokenizer, messages)
    most = min(max_length + BEYOND, most_length) - len(ids)
    most = most if len(ids) < max_length else 0
    return Prompt(split, example["id"], row, tuple(ids), most)


class Generated:
    """The texts of one folder.

    Attributes:
      folder: a data source once nothing is missing and `finish` was called.
    """

    def __init__(self, folder: Path, prompts: Sequence[Prompt]) -> None:
        self.folder, self.prompts = folder, prompts
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "texts.jsonl"
        known = {(prompt.split, prompt.id) for prompt in prompts}
        self.texts = {
            key: text for key, text in _whole_lines(self._file) if key in known
        }

    @property
    def missing(self) -> list[Prompt]:
        """The prompts whose texts are still to be written."""
        return [p for p in self.prompts if (p.split, p.id) not in self.texts]

    def keep(self, prompt: Prompt, text: str) -> None:
        """Takes a whole text; it is on disk when the call returns."""
        line = {"split": prompt.split, "id": prompt.id, "text": text}
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.texts[prompt.split, prompt.id] = text

    def finish(self) -> None:
        """Writes the splits; a prompt that nothing was said to is left out.

        Raises:
          ValueError: if a split has no text.
        """
        for split in SPLITS:
            rows = [
                prompt.completed(text)
                for prompt in self.prompts
                if prompt.split == split
                and (text := self.texts[prompt.split, prompt.id]).strip()
            ]
            if not rows:
                raise ValueError(
                    f"the model must write something to the prompts of the split "
                    f"{split}, got only empty texts"
                )
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            write_text(self.folder / f"{split}.jsonl", "".join(lines))
            if split == "validation":  # else half of it would be the reference split
                write_text(self.folder / "reference.jsonl", "".join(lines))


def _whole_lines(file: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """What earlier writers have left; half a line of a killed one is cut off."""
    if not file.is_file():
        return
    content = file.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with open(file, "r+b") as opened:
            opened.truncate(end)
    for number, line in enumerate(content[:end].splitlines(), 1):
        try:
            found = parse(line)
            yield (found["split"], found["id"]), str(found["text"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{file} must hold the texts that were written, got something else "
                f"in line {number} (remove the folder to write them again)"
            ) from None
