"""The tokenizer's files in a model's folder, for `transformers` and for other tools."""

import json
import logging
from pathlib import Path
from typing import Any

from shared.data.tokenizer import Tokenizer, load_tokenizer
from shared.files import write_text

log = logging.getLogger("wmtp")

CONFIG = "tokenizer_config.json"
# Texts whose token ids tell whether a written tokenizer is the one it was.
SAMPLES = ("def f(x):\n    return x + 1  # é\n", "  Two  words\t\n\n</s>", "0123 ∑!")


def write_tokenizer(folder: Path, tokenizer: Tokenizer, max_length: int) -> None:
    """Writes all files of the tokenizer, its chat templates among them.

    Args:
      max_length: of the model; the loader of this project lifts the limit, since it
        cuts documents itself.
    """
    words = tokenizer.implementation
    words.save_pretrained(str(folder))
    settings = json.loads((folder / CONFIG).read_text("utf-8"))
    settings["model_max_length"] = max_length
    # How it was loaded here is nothing to its readers.
    for name in ("is_local", "local_files_only"):
        settings.pop(name, None)
    write_json(folder / CONFIG, settings | _ends(words))


def _ends(words: Any) -> dict[str, bool]:
    """Whether it adds bos and eos at use.

    `transformers` 5 reads that from `tokenizer.json` and leaves the settings out, which
    older versions and converters read.
    """
    ids = words("a").input_ids
    known = {
        "add_bos_token": ids[:1] == [words.bos_token_id],
        "add_eos_token": ids[-1:] == [words.eos_token_id],
    }
    return {name: x for name, x in known.items() if hasattr(words, name)}


def check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Warns where `transformers` will not open the tokenizer as what it is.

    It prefers a model type's own tokenizer class for some types (qwen2) to the one
    that the folder names. The weights are right all the same.
    """
    written = load_tokenizer(str(folder))
    if _seen(written) != _seen(tokenizer):
        kind = json.loads((folder / CONFIG).read_text("utf-8"))["tokenizer_class"]
        log.warning(
            "AutoTokenizer reads the tokenizer of the exported model as another class "
            "(%s), which gives other token ids: open it with %s.from_pretrained",
            type(written.implementation).__name__,
            kind,
        )


def _seen(tokenizer: Tokenizer) -> list[Any]:
    """What two tokenizers that are the same have in common."""
    words = tokenizer.implementation
    at_use = words(SAMPLES[0]).input_ids
    ids = [tokenizer.encode(text) for text in SAMPLES]
    return [tokenizer.eos_id, words.chat_template, at_use, ids]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON object, keys in order."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    write_text(path, text + "\n")
