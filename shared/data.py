"""What is trained on: sources -> examples -> tokenised documents.

A source is the minis of this package, a folder of `SPLIT.jsonl` files, or one .jsonl
file. Each line is one example: a prompt and its completion. One example is one
document, `tok(prompt) ++ tok(completion) ++ [eos]`; `shared/batches.py` lays documents
out in rows.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared.config import DataConfig
from shared.examples import Example, is_even, read_examples
from shared.tokenizer import Tokenizer
from shared.tokenizer import load_tokenizer as load_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset


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


def load_examples(cfg: DataConfig) -> dict[str, "Dataset"]:
    """The examples of a source by split, with columns id, prompt, completion.

    A folder (the minis are one) holds `train.jsonl` (or the file that `train_split`
    names), `validation.jsonl`, and maybe `reference.jsonl` and `test.jsonl` (or
    `test_mini.jsonl`). Without `reference.jsonl` the validation examples whose id ends
    in an even integer are the reference split (ids without one count by row, from 0)
    and validation keeps the odd ones, whatever the algorithm. Of one .jsonl file, row
    `i` (from 0) is reference if `i % 10 == 8`, validation if `i % 10 == 9`, else train.

    Returns:
      Splits `train`, `reference`, `validation`, and `test` where the source has one.

    Raises:
      ValueError: naming file and line for anything that cannot be read as an example;
        or if the source is missing or a split has no examples.
    """
    is_minis = cfg.source == "minis"
    source = Path(cfg.source).expanduser()
    if is_minis or source.is_dir():
        folder = files("shared").joinpath("minis", "mbpp") if is_minis else source
        splits = _split_folder(folder, cfg)
    elif source.suffix == ".jsonl":
        splits = _split_file(source, cfg)
    else:
        raise ValueError(
            "data.source must be `minis`, a folder with train.jsonl and "
            f"validation.jsonl, or one .jsonl file, got {cfg.source!r}"
        )
    for name, examples in splits.items():
        if not examples:
            raise ValueError(
                f"every split must have an example, got none for {name!r} in "
                f"data.source {cfg.source!r}: add rows, or a folder with {name}.jsonl"
            )
    from datasets import Dataset

    return {name: Dataset.from_list(examples) for name, examples in splits.items()}


def _split_folder(folder: Traversable, cfg: DataConfig) -> dict[str, list[Example]]:
    def read(name: str) -> list[Example]:
        return read_examples(folder.joinpath(f"{name}.jsonl"), cfg.format)

    def has(name: str) -> bool:
        return folder.joinpath(f"{name}.jsonl").is_file()

    name = cfg.train_split
    held_out = ("", "reference", "validation", "test")
    if name in held_out or Path(name).name != name:
        raise ValueError(
            "data.train_split must name a file of data.source other than reference, "
            f"validation and test, got {name!r}"
        )
    train, validation = read(name), read("validation")
    if has("reference"):
        reference = read("reference")
    else:
        numbered = list(enumerate(validation))
        reference = [row for i, row in numbered if is_even(row["id"], i)]
        validation = [row for i, row in numbered if not is_even(row["id"], i)]
    splits = {"train": train, "reference": reference, "validation": validation}
    test = next((test for test in ("test", "test_mini") if has(test)), None)
    return splits | ({"test": read(test)} if test else {})


def _split_file(file: Path, cfg: DataConfig) -> dict[str, list[Example]]:
    if cfg.train_split != "train":
        raise ValueError(
            "data.train_split must be 'train' where data.source is one file, got "
            f"{cfg.train_split!r}"
        )
    splits: dict[str, list[Example]] = {"train": [], "reference": [], "validation": []}
    for i, example in enumerate(read_examples(file, cfg.format)):
        name = {8: "reference", 9: "validation"}.get(i % 10, "train")
        splits[name].append(example)
    return splits


def load_splits(
    cfg: DataConfig, tokenizer: Tokenizer, *, splits: Sequence[str]
) -> dict[str, Split]:
    """Reads and tokenises the named splits.

    Raises:
      ValueError: as `load_examples`; or if a document is shorter than 2 tokens, or a
        split has no target at all.
    """
    examples = load_examples(cfg)
    missing = [name for name in splits if name not in examples]
    if missing:
        raise ValueError(
            f"splits must be among {sorted(examples)} of data.source "
            f"{cfg.source!r}, got {missing}"
        )
    return {
        name: _tokenise_split(name, examples[name].to_list(), tokenizer, cfg)
        for name in splits
    }


def _tokenise_split(
    name: str, examples: Sequence[Example], tokenizer: Tokenizer, cfg: DataConfig
) -> Split:
    digest = hashlib.sha256()
    documents, num_cut = [], 0
    for example in examples:
        document, is_cut = _tokenise(example, tokenizer, cfg)
        if len(document.tokens) < 2:
            raise ValueError(
                f"a document must have at least 2 tokens, got "
                f"{len(document.tokens)} for example {document.id!r} of split {name!r}"
            )
        documents.append(document)
        num_cut += is_cut
        arrays = (document.tokens.tobytes(), document.target.tobytes())
        for part in (document.id.encode(), *arrays):
            digest.update(len(part).to_bytes(8, "little") + part)
    if not any(document.target.any() for document in documents):
        raise ValueError(
            f"split {name!r} must have targets, got none with data.loss_on = "
            f"{cfg.loss_on!r} and data.max_length = {cfg.max_length}: every prompt "
            "fills a row"
        )
    return Split(name, tuple(documents), num_cut, digest.hexdigest())


def _tokenise(
    example: Example, tokenizer: Tokenizer, cfg: DataConfig
) -> tuple[Document, bool]:
    prompt = tokenizer.encode(example["prompt"])
    ids = [*prompt, *tokenizer.encode(example["completion"]), tokenizer.eos_id]
    tokens = np.array(ids[: cfg.max_length], np.int32)
    # The first token of a document is predicted from nothing, so it is no target.
    first = max(1, len(prompt)) if cfg.loss_on == "completion" else 1
    target = np.arange(len(tokens)) >= first
    return Document(example["id"], tokens, target), len(ids) > cfg.max_length
