"""Tokenizers: bytes, or a local folder by `transformers`; imported late, it is slow.

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
from typing import Any, NamedTuple

from shared.data import byte_tokens
from shared.data.spelling import (
    control_tokens,
    count_common,
    ends_of,
    special_tokens,
    unspellable,
)
from shared.files import refuse_pointer
from shared.messages import first_line

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
)
BESIDE = (
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


class Spelled(NamedTuple):
    """A document as tokens.

    Attributes:
      ids: of the tokens.
      own: of each, whether it is the completion's (or, in a chat, the assistant's).
    """

    ids: list[int]
    own: list[bool]


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back; nothing in a text becomes a control token.

    Attributes:
      name: as in `data.tokenizer`.
      vocab_size: every id is under it.
      eos_id: the token that ends a document.
      digest: sha256 over what decides the ids, wherever the files lie.
      implementation: the `transformers` tokenizer.
      before, after: what it puts before and after a text at use (BOS, eos).
      controls: ids of the tokens that no text becomes (`shared/data/spelling.py`).
      special: of these, the ids that decoding leaves out.
      speller: its `tokenizers.Tokenizer` that cannot spell `controls`; None for a
        tokenizer in Python.
      generation: what the model that it belongs to says of decoding, for exports
        (`shared/huggingface/generation.py`).
    """

    name: str
    vocab_size: int
    eos_id: int
    digest: str
    implementation: Any
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    controls: dict[str, int] = field(default_factory=dict)
    special: frozenset[int] = frozenset()
    speller: Any = None
    generation: dict[str, Any] = field(default_factory=dict)

    def encode(self, text: str) -> list[int]:
        """Token ids as a text begins at use: with the tokenizer's BOS, without eos.

        Raises:
          ValueError: if a tokenizer in Python makes a control token of the text.
        """
        return [*self.before, *self.spell(text)]

    def spell(self, text: str) -> list[int]:
        """Token ids of the text alone.

        Raises:
          ValueError: as `encode`.
        """
        if self.speller is not None:
            return self.speller.encode(text, add_special_tokens=False).ids
        ids = self.implementation.encode(
            text, add_special_tokens=False, split_special_tokens=True
        )
        for token, number in self.controls.items():
            if token in text and number in ids:
                raise ValueError(
                    f"{token!r} in a text must stay text, got token {number} for it "
                    f"from {type(self.implementation).__name__}"
                )
        return ids

    def document(self, prompt: str, completion: str) -> Spelled:
        """`prompt + completion` as one text, with the tokenizer's BOS and with eos.

        A token is the completion's iff its characters end after the prompt's.

        Raises:
          ValueError: as `encode`.

        Example:
          >>> load_tokenizer("bytes").document("a", "b")
          Spelled(ids=[100, 101, 1], own=[False, True, True])
        """
        if self.speller is not None:
            spelled = self.speller.encode(prompt + completion, add_special_tokens=False)
            text, ends = spelled.ids, (end for _, end in spelled.offsets)
            later = (i for i, end in enumerate(ends) if end > len(prompt))
            start = next(later, len(text))
        else:
            text = self.spell(prompt + completion)
            start = self._boundary(text, prompt)
        ids = [*self.before, *text, *self.after]
        if ids[-1:] != [self.eos_id]:
            ids.append(self.eos_id)
        start += len(self.before)
        return Spelled(ids, [i >= start for i in range(len(ids))])

    def _boundary(self, text: list[int], prompt: str) -> int:
        """How many tokens of a text end in its prompt, where nothing tells offsets."""
        alone = self.spell(prompt)
        start = count_common(text, alone)
        if start == len(alone):
            return start
        # The prompt ends otherwise where it stands alone: read on token by token.
        length = len(self.decode(text[:start]))
        for i in range(start + 1, len(text) + 1):
            read = self.decode(text[:i])
            if len(read) > len(prompt):
                break
            if prompt.startswith(read) and len(read) > length:
                start, length = i, len(read)
        return start

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens and ids beyond the vocabulary drop."""
        kept = (int(i) for i in ids if 0 <= i < self.vocab_size)
        return self.implementation.decode(
            [i for i in kept if i not in self.special],
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
    if name == "bytes":
        return _bytes()
    implementation = _read_tokenizer(name, byte_tokens.SETTINGS, of)
    if implementation.eos_token_id is None:
        raise ValueError(f"{of} must have an eos token, got none in {name!r}")
    return wrapped(implementation, name)


def _bytes() -> Tokenizer:
    """What `wrapped` makes of ByT5's tokenizer, without `transformers`."""
    vocabulary, special = byte_tokens.vocabulary(), byte_tokens.SPECIAL
    eos_id = special[byte_tokens.EOS]
    return Tokenizer(
        name="bytes",
        vocab_size=len(vocabulary),
        eos_id=eos_id,
        digest=_digest(["ByT5Tokenizer", sorted(vocabulary.items()), eos_id]),
        implementation=byte_tokens.ByteTokens(),
        after=(eos_id,),
        controls=dict(special),
        special=frozenset(special.values()),
    )


def _digest(decides: list[Any]) -> str:
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


def wrapped(implementation: Any, name: str) -> Tokenizer:
    """A `transformers` tokenizer as one of ours."""
    vocabulary = implementation.get_vocab()
    decides = [type(implementation).__name__, sorted(vocabulary.items())]
    backend = getattr(implementation, "backend_tokenizer", None)
    if backend is not None:  # also merges and normalisation
        decides.append(backend.to_str())
    decides.append(implementation.eos_token_id)
    before, after = ends_of(implementation)
    controls = control_tokens(implementation)
    return Tokenizer(
        name=name,
        # Some vocabularies have holes; the largest id has to fit all the same.
        vocab_size=max(len(implementation), 1 + max(vocabulary.values())),
        eos_id=implementation.eos_token_id,
        digest=_digest(decides),
        implementation=implementation,
        before=before,
        after=after,
        controls=controls,
        special=frozenset(special_tokens(implementation).values()),
        speller=unspellable(backend, controls) if backend is not None else None,
    )


def _read_tokenizer(name: str, settings: dict[str, Any], of: str) -> Any:
    required = f"{of} must be `bytes` or a folder of a Hugging Face tokenizer"
    folder = Path(os.path.expanduser(name))
    if not folder.is_dir():
        raise ValueError(f"{required}, got {name!r}, which is no folder")
    if not any((folder / file).is_file() for file in FILES):
        # Of a model's folder without one the library makes an empty tokenizer.
        raise ValueError(f"{required}, got {name!r}, which holds none of {FILES[:3]}")
    for file in (*FILES, *BESIDE):
        refuse_pointer(folder / file)
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
