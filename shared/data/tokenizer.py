"""Tokenizers, from `transformers`: bytes, or a local folder; imported late, it is slow.

Torch is not needed, nothing is fetched and no code of a folder is run.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.messages import first_line

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
)


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back; nothing in a text becomes a special token.

    Attributes:
      name: as in `data.tokenizer`.
      vocab_size: every id is under it.
      eos_id: the token that ends a document.
      digest: sha256 over what decides the ids, wherever the files lie.
      implementation: the `transformers` tokenizer.
      generation: what the model that it belongs to says of decoding, for exports
        (`shared/huggingface/generation.py`).
    """

    name: str
    vocab_size: int
    eos_id: int
    digest: str
    implementation: Any
    generation: dict[str, Any] = field(default_factory=dict)

    def encode(self, text: str) -> list[int]:
        """Token ids of the text alone: no eos, no other special token."""
        return self.implementation.encode(
            text, add_special_tokens=False, split_special_tokens=True
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens and ids beyond the vocabulary drop."""
        return self.implementation.decode(
            [int(i) for i in ids if 0 <= i < self.vocab_size],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )


def load_tokenizer(name: str, of: str = "data.tokenizer") -> Tokenizer:
    """`bytes` (ByT5's 256 bytes and 3 special tokens), or a local tokenizer folder.

    Args:
      name: `bytes`, which needs no files, or a folder with a Hugging Face tokenizer.
      of: what the user calls it, for messages.

    Raises:
      ValueError: if there is no such folder, no tokenizer in it, or no eos token.

    Example:
      >>> tokenizer = load_tokenizer("bytes")
      >>> tokenizer.vocab_size, tokenizer.eos_id, tokenizer.encode("a</s>")
      (259, 1, [100, 63, 50, 118, 65])
      >>> tokenizer.decode(tokenizer.encode("a</s>"))
      'a</s>'
    """
    # A document is cut by us, so no length of the tokenizer's own plays a part.
    settings = {"model_max_length": 10**9}
    if name == "bytes":
        with quiet_import():
            from transformers import ByT5Tokenizer
        implementation = ByT5Tokenizer(extra_ids=0, **settings)
    else:
        implementation = _read_tokenizer(name, settings, of)
    if implementation.eos_token_id is None:
        raise ValueError(f"{of} must have an eos token, got none in {name!r}")
    vocabulary = implementation.get_vocab()
    decides = [type(implementation).__name__, sorted(vocabulary.items())]
    if hasattr(implementation, "backend_tokenizer"):  # also merges and normalisation
        decides.append(implementation.backend_tokenizer.to_str())
    decides.append(implementation.eos_token_id)
    return Tokenizer(
        name=name,
        # Some vocabularies have holes; the largest id has to fit all the same.
        vocab_size=max(len(implementation), 1 + max(vocabulary.values())),
        eos_id=implementation.eos_token_id,
        digest=hashlib.sha256(json.dumps(decides).encode()).hexdigest(),
        implementation=implementation,
    )


def _read_tokenizer(name: str, settings: dict[str, Any], of: str) -> Any:
    required = f"{of} must be `bytes` or a folder of a Hugging Face tokenizer"
    folder = Path(os.path.expanduser(name))
    if not folder.is_dir():
        raise ValueError(f"{required}, got {name!r}, which is no folder")
    if not any((folder / file).is_file() for file in FILES):
        # Of a model's folder without one the library makes an empty tokenizer.
        raise ValueError(f"{required}, got {name!r}, which holds none of {FILES[:3]}")
    with quiet_import():
        from transformers import AutoTokenizer
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, **settings
        )
    except Exception as error:  # whatever a damaged folder makes the library raise
        reason = first_line(error)
        raise ValueError(f"{required}, got {name!r}: {reason}") from None


@contextmanager
def quiet_import() -> Iterator[None]:
    """Without torch, importing `transformers` warns that its models cannot be used.

    We use its tokenizers and configs only.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
