"""What is trained on: sources -> examples -> tokenised documents.

A source is the minis of this package, a data set of the hub, a folder of `SPLIT.jsonl`
files, or one .jsonl file. Each row is one example, and one document
(`shared/data/tokenised.py`); `shared/data/batches.py` lays documents out in rows.
"""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from shared.config.fields import DataConfig
from shared.data import hub as hub_data
from shared.data.examples import (
    Example,
    Examples,
    Rows,
    convert_rows,
    is_even,
    read_examples,
    read_lines,
)
from shared.data.tokenised import Document as Document
from shared.data.tokenised import Split, tokenise
from shared.data.tokenizer import Tokenizer

log = logging.getLogger("wmtp")

# google-research-datasets/mbpp; ids 1 to 10 are its few-shot prompt.
MBPP_IDS = {
    "train": range(601, 975),
    "reference": range(511, 601),
    "validation": range(511, 601),
    "test": range(11, 511),
}


def load_examples(cfg: DataConfig) -> dict[str, list[Example]]:
    """The examples of a source by split, each with id, prompt and completion.

    `mbpp` and `code_contests` are data sets of the hub, whatever lies in the working
    folder (`./mbpp` is a folder). A folder (the minis are one) holds `train.jsonl` (or
    the file that `train_split` names), `validation.jsonl`, and maybe `reference.jsonl`
    and `test.jsonl` (or `test_mini.jsonl`); or the parquet files of a repository of the
    hub. Without a reference split the validation examples whose id ends in an even
    integer are it (ids without one count by row, from 0) and validation keeps the odd
    ones, whatever the algorithm. Of one .jsonl file, row `i` (from 0) is reference if
    `i % 10 == 8`, validation if `i % 10 == 9`, else train.

    Problems of MBPP's test split (task ids 11 to 510) are refused in `train` and
    `reference`.

    Returns:
      Splits `train`, `reference`, `validation`, and `test` where the source has one;
      the first `max_examples` of each.

    Raises:
      ValueError: naming file and line for anything that cannot be read as an example;
        or if the source is missing, a split has no examples or an MBPP id is in the
        wrong split.
    """
    splits = _read_source(cfg)
    _check_mbpp_ids(splits, cfg.source)
    for name, examples in splits.items():
        if examples.num_left_out:
            log.warning(
                "%s: %d problems have no solution in Python 3 and are left out",
                name,
                examples.num_left_out,
            )
        if not examples.rows:
            raise ValueError(
                f"every split must have an example, got none for {name!r} in "
                f"data.source {cfg.source!r}: add rows, or a folder with {name}.jsonl"
            )
    limit = cfg.max_examples or None
    return {name: examples.rows[:limit] for name, examples in splits.items()}


def _read_source(cfg: DataConfig) -> dict[str, Examples]:
    if cfg.source == "humaneval":
        raise ValueError(
            "data.source must be a data set to train on, got 'humaneval', which has "
            "only a test split and is for evaluation"
        )
    streaming = cfg.max_examples > 0
    if cfg.source in hub_data.SOURCES:
        rows = hub_data.open_source(cfg.source, streaming=streaming)
        return _split(rows, cfg, cfg.max_examples)
    if cfg.source == "minis":
        minis = files("shared.data").joinpath("minis", "mbpp")
        return _split(_lines_by_split(minis, cfg.train_split), cfg)
    source = Path(os.path.expanduser(cfg.source))
    if hub_data.is_parquet_folder(source):
        rows = hub_data.open_folder(source, streaming=streaming)
        return _split(rows, cfg, cfg.max_examples)
    if source.is_dir():
        return _split(_lines_by_split(source, cfg.train_split), cfg)
    if source.suffix == ".jsonl":
        return _split_file(source, cfg)
    raise ValueError(
        "data.source must be `minis`, `mbpp`, `code_contests`, a folder with "
        "train.jsonl and validation.jsonl, or one .jsonl file, got "
        f"{cfg.source!r}"
    )


def _lines_by_split(folder: Traversable, train_split: str) -> dict[str, Rows]:
    """The lines of a folder's files; the first two must be there when they are read."""
    needed, others = (train_split, "validation"), ("reference", "test", "test_mini")
    found = {name: folder.joinpath(f"{name}.jsonl") for name in needed + others}
    return {
        name: read_lines(file)
        for name, file in found.items()
        if name in needed or file.is_file()
    }


def _split(
    rows: dict[str, Rows], cfg: DataConfig, limit: int = 0
) -> dict[str, Examples]:
    """Our splits; `limit` ends each early, but 0 reads and checks all rows."""
    name = cfg.train_split
    held_out = ("", "reference", "validation", "test")
    if name in held_out or Path(name).name != name:
        raise ValueError(
            "data.train_split must name a file of data.source other than reference, "
            f"validation and test, got {name!r}"
        )

    @cache  # rows can be read once, and the training split may be `test_mini`
    def read(split: str, limit: int = limit) -> Examples:
        if split not in rows:
            raise ValueError(
                f"data.source must have a split {split!r}, got {', '.join(rows)} in "
                f"{cfg.source!r}"
            )
        return convert_rows(rows[split], cfg.format, limit)

    # Validation is cut after it has been shared with the reference split.
    train, validation = read(name), read("validation", limit=0)
    if "reference" in rows:
        reference = read("reference")
    else:
        numbered = list(enumerate(validation.rows))
        even = [row for i, row in numbered if is_even(row["id"], i)]
        odd = [row for i, row in numbered if not is_even(row["id"], i)]
        reference = Examples(even, validation.format)
        validation = replace(validation, rows=odd)
    splits = {"train": train, "reference": reference, "validation": validation}
    test = next((test for test in ("test", "test_mini") if test in rows), None)
    return splits | ({"test": read(test)} if test else {})


def _split_file(file: Path, cfg: DataConfig) -> dict[str, Examples]:
    if cfg.train_split != "train":
        raise ValueError(
            "data.train_split must be 'train' where data.source is one file, got "
            f"{cfg.train_split!r}"
        )
    found = read_examples(file, cfg.format)
    train = [row for i, row in enumerate(found.rows) if i % 10 < 8]
    return {
        "train": replace(found, rows=train),
        "reference": Examples(found.rows[8::10], found.format),
        "validation": Examples(found.rows[9::10], found.format),
    }


def _check_mbpp_ids(splits: dict[str, Examples], source: str) -> None:
    """Ids that are no plain integers, like the minis', are nobody's but the user's."""
    test = MBPP_IDS["test"]
    for name, examples in splits.items():
        for row in examples.rows if examples.format == "mbpp" else ():
            if not re.fullmatch(r"[0-9]{1,18}", row["id"]):
                continue
            number = int(row["id"])
            if name in ("train", "reference") and number in test:
                raise ValueError(
                    f"split {name!r} must have no task_id of MBPP's test split "
                    f"({_span(test)}), got {number} in data.source {source!r} (write "
                    f"ids of your own problems as 'own/{number}')"
                )
            if source == "mbpp" and number not in MBPP_IDS[name]:
                raise ValueError(
                    f"split {name!r} of MBPP must have the task ids "
                    f"{_span(MBPP_IDS[name])}, got {number} in data.source {source!r}"
                )


def _span(ids: range) -> str:
    return f"{ids.start} to {ids.stop - 1}"


def load_splits(
    cfg: DataConfig,
    tokenizer: Tokenizer,
    *,
    splits: Sequence[str],
    examples: dict[str, list[Example]] | None = None,
) -> dict[str, Split]:
    """Reads and tokenises the named splits.

    Args:
      examples: what `load_examples` gave, where the caller has it already.

    Raises:
      ValueError: as `load_examples`; or if a document is shorter than 2 tokens, or a
        split has no target at all.
    """
    examples = load_examples(cfg) if examples is None else examples
    missing = [name for name in splits if name not in examples]
    if missing:
        raise ValueError(
            f"splits must be among {sorted(examples)} of data.source "
            f"{cfg.source!r}, got {missing}"
        )
    return {name: tokenise(name, examples[name], tokenizer, cfg) for name in splits}
