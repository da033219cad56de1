"""Examples -> documents: the tokens of a whole text, which of them are targets.

One example is one document: the tokens of `prompt + completion` as one text, or of a
chat in its template, and eos. A model sees at training what it sees at use.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shared.config.fields import DataConfig
from shared.data.chat import ASSISTANT, spell_chat
from shared.data.examples import Example
from shared.data.tokenizer import Spelled, Tokenizer


@dataclass(frozen=True)
class Document:
    """One tokenised example.

    Attributes:
      id: of the example, unique in its split.
      tokens: int32 `[T]`.
      target: bool `[T]`, True where the token is in T(d); never the first.
    """

    id: str
    tokens: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Split:
    """The documents of one split, in the order of its file.

    Attributes:
      name: train, reference, validation or test.
      documents: the documents.
      num_cut: how many were longer than `data.max_length` and lost their end.
      digest: sha256 over ids, tokens and targets.
    """

    name: str
    documents: tuple[Document, ...]
    num_cut: int
    digest: str

    @property
    def num_untargeted(self) -> int:
        """How many have no target: their prompt leaves no room for a completion."""
        return sum(not document.target.any() for document in self.documents)


def tokenise(
    name: str, examples: Sequence[Example], tokenizer: Tokenizer, cfg: DataConfig
) -> Split:
    documents, num_cut = [], 0
    for example in examples:
        what = f"example {example['id']!r} of split {name!r}"
        try:
            spelled = _spell(example, tokenizer, cfg.chat)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
        if len(spelled.ids) < 2 or not example["prompt"] + example["completion"]:
            raise ValueError(
                f"a document must have a token of text, got none in {what}"
            )
        num_cut += len(spelled.ids) > cfg.max_length
        documents.append(_document(example["id"], spelled, cfg))
    if not any(document.target.any() for document in documents):
        raise ValueError(
            f"split {name!r} must have targets, got none with data.loss_on = "
            f"{cfg.loss_on!r} and data.max_length = {cfg.max_length}: every prompt "
            "fills a row"
        )
    return Split(name, tuple(documents), num_cut, _digest(documents))


def check_rows(
    splits: Mapping[str, Split], rows: int, tokenizer: Tokenizer, what: str
) -> None:
    """Holds the documents against the rows of an embedding.

    A tokenizer may have more ids than a model has rows: many a folder is so, and the
    ids beyond are padding that no text uses.

    Args:
      what: has so many rows, for messages.

    Raises:
      ValueError: naming the first token without a row.
    """
    for split in splits.values():
        for document in split.documents:
            if (token := int(document.tokens.max())) >= rows:
                text = tokenizer.implementation.convert_ids_to_tokens(token)
                raise ValueError(
                    f"{what} must have a row for every token of the data, got {rows} "
                    f"rows and token {token} ({text!r}) in example {document.id!r} of "
                    f"split {split.name!r}"
                )


def digest_apart(
    examples: Sequence[Example], tokenizer: Tokenizer, cfg: DataConfig
) -> str:
    """The digest of a split as it was when prompt and completion were tokenised apart.

    Runs that were begun so have it in their folder.
    """
    documents = []
    for example in examples:
        prompt = tokenizer.spell(example["prompt"])
        rest = [*tokenizer.spell(example["completion"]), tokenizer.eos_id]
        own = [False] * len(prompt) + [True] * len(rest)
        spelled = Spelled([*prompt, *rest], own)
        documents.append(_document(example["id"], spelled, cfg))
    return _digest(documents)


def _spell(example: Example, tokenizer: Tokenizer, chat: bool) -> Spelled:
    prompt, completion = example["prompt"], example["completion"]
    messages = example.get("messages")
    if messages is None and chat:
        messages = [
            {"role": "user", "content": prompt},
            {"role": ASSISTANT, "content": completion},
        ]
    if messages is not None:
        return spell_chat(tokenizer, messages)
    return tokenizer.document(prompt, completion)


def _document(example_id: str, spelled: Spelled, cfg: DataConfig) -> Document:
    tokens = np.array(spelled.ids[: cfg.max_length], np.int32)
    target = np.array(spelled.own[: cfg.max_length]) | (cfg.loss_on == "all")
    target[0] = False  # predicted from nothing
    return Document(example_id, tokens, target)


def _digest(documents: Sequence[Document]) -> str:
    digest = hashlib.sha256()
    for x in documents:
        for part in (x.id.encode(), x.tokens.tobytes(), x.target.tobytes()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
