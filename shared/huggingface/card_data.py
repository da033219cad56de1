"""The front matter of a model card (`README.md`): what is read of a base model's, and
how it is written.

Values go in as plain words where YAML reads a word back as it is, else in quotes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.huggingface.json_keys import read_keys

CARD = "README.md"
MAX_BYTES = 1_000_000
WORD = re.compile(r"[A-Za-z][\w.-]*(/[\w.-]+)?", re.ASCII)
NO_STRINGS = {"y", "yes", "n", "no", "true", "false", "on", "off", "null"}
# What is taken over of a base model's card: nothing that could say more than it is.
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}"
LICENCE = {
    "license": re.compile(NAME),
    "license_name": re.compile(NAME),
    "license_link": re.compile(r"https://[A-Za-z0-9./_~%#?&=+-]{1,300}"),
}


def front_matter(values: Mapping[str, str | Sequence[str]]) -> str:
    """The lines from `---` to `---`; a list has a line for each of its strings.

    Example:
      >>> print(front_matter({"license": "mit", "tags": ["wmtp", "no"]}))
      ---
      license: mit
      tags:
      - wmtp
      - "no"
      ---
    """
    lines = ["---"]
    for key, value in values.items():
        if isinstance(value, str):
            lines.append(f"{key}: {_scalar(value)}")
        else:
            lines += [f"{key}:", *(f"- {_scalar(x)}" for x in value)]
    return "\n".join([*lines, "---"])


def _scalar(text: str) -> str:
    plain = WORD.fullmatch(text) and text.lower() not in NO_STRINGS
    return text if plain else json.dumps(text, ensure_ascii=False)


def licence_of(folder: Path) -> dict[str, str]:
    """What the card of a folder says of the licence, else its `config.json`.

    Returns:
      `license`, and maybe `license_name` and `license_link`; `{}` where it says none,
      or not as the hub wants it said.
    """
    found = _read_card(folder / CARD)
    if "license" not in found:
        try:
            found = read_keys(folder / "config.json").found
        except ValueError:
            return {}
    kept = {
        key: value
        for key, pattern in LICENCE.items()
        if isinstance(value := found.get(key), str) and pattern.fullmatch(value)
    }
    return kept if "license" in kept else {}


def _read_card(file: Path) -> dict:
    from huggingface_hub.repocard import metadata_load  # late, it is slow

    try:
        if file.stat().st_size > MAX_BYTES:
            return {}
        return metadata_load(file) or {}
    except Exception:  # somebody else's file: its YAML may be wrong in any way
        return {}
