"""`generation_config.json`: what a model says of decoding goes into its exports."""

import re
from pathlib import Path
from typing import Any

from shared.huggingface.json_keys import read_keys

FILE = "generation_config.json"
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
# Settings that hold ids of tokens; all others fit any vocabulary.
IDS = re.compile(r".*_token_id|.*_ids|.*suppress_tokens|sequence_bias")


def read_generation(folder: Path) -> dict[str, Any]:
    """What a folder says of decoding: its file, else the ids of its `config.json`.

    Raises:
      ValueError: if a file is no JSON object.
    """
    if (folder / FILE).is_file():
        return dict(read_keys(folder / FILE).found)
    if not (folder / "config.json").is_file():
        return {}
    found = read_keys(folder / "config.json").found
    return {name: found[name] for name in SPECIAL if found.get(name) is not None}


def without_ids(generation: dict[str, Any]) -> dict[str, Any]:
    """What of it holds with another tokenizer."""
    return {name: x for name, x in generation.items() if not IDS.fullmatch(name)}


def make_generation(
    kept: dict[str, Any], special: dict[str, int | None], vocab_size: int
) -> dict[str, Any]:
    """The content of `generation_config.json` in an export.

    Args:
      kept: of the model that the run started from; empty if there was none.
      special: ids of `SPECIAL`, of the tokenizer. Decoding ends where documents do:
        with its eos, beside others that the model had.
      vocab_size: no id is beyond it.
    """
    own = {name: x for name, x in special.items() if x is not None}
    if not kept:
        return own
    ends = kept.get("eos_token_id")
    ends = [x for x in (ends if isinstance(ends, list) else [ends]) if x is not None]
    several = [x for x in ends if _is_valid(x, vocab_size)]
    if own["eos_token_id"] not in several:
        several.append(own["eos_token_id"])
    made = {
        name: x
        for name, x in kept.items()
        if not IDS.fullmatch(name) or _is_valid(x, vocab_size)
    }
    if several != ends:
        made["eos_token_id"] = several if len(several) > 1 else several[0]
    return made


def _is_valid(ids: Any, vocab_size: int) -> bool:
    """Whether all whole numbers in it, however nested, are ids of tokens."""
    if isinstance(ids, list):
        return all(_is_valid(x, vocab_size) for x in ids)
    return type(ids) is not int or 0 <= ids < vocab_size
