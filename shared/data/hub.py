"""Data sets of the hub by name, and local folders with their parquet files.

Read through `datasets` without loading scripts. The rows go through the same checks as
lines of JSON (`shared/data/examples.py`).
"""

from collections.abc import Callable, Iterable
from glob import escape
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from shared.data.examples import CODE_CONTESTS, Row, Rows
from shared.files import refuse_pointer
from shared.messages import named_line

Refuse = Callable[[Exception], ValueError]  # another library's error in our words


class HubData(NamedTuple):
    """A data set on the hub: which, and the only columns that are read (None: all)."""

    repository: str
    config: str
    columns: list[str] | None = None


# Tests and wrong solutions are most of code_contests: they are not even fetched where
# its rows are streamed.
SOURCES = {
    "mbpp": HubData("google-research-datasets/mbpp", "full"),
    "humaneval": HubData("openai/openai_humaneval", "openai_humaneval"),
    "code_contests": HubData("deepmind/code_contests", "default", [*CODE_CONTESTS]),
}
# Of code_contests, asked for where programs are to be judged.
TESTS = ("public_tests", "private_tests", "generated_tests")
# Where such repositories keep their parquet files, `SPLIT-00000-of-00001.parquet`.
FOLDERS = ("full", "sanitized", "data", "openai_humaneval", ".")
SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",  # code_contests
    "test": "test",
}


def open_source(name: str, *, streaming: bool, tests: bool = False) -> dict[str, Rows]:
    """The rows of a data set of the hub, by split.

    Args:
      name: a key of `SOURCES`.
      streaming: fetch rows only as they are asked for; else the whole data set.
      tests: whether those of code_contests are read, too.

    Raises:
      ValueError: if it cannot be fetched and is not in the cache, also while the rows
        are read.
    """
    source = SOURCES[name]
    unreached = _unreached(source.repository)

    def refuse(error: Exception) -> ValueError:
        return ValueError(
            f"data.source {name!r} must be fetched from the hub ({source.repository}) "
            f"or be in its cache, got {named_line(unreached or error)}: "
            "give by --data a folder with train.jsonl and validation.jsonl, or with "
            "the parquet files of that repository"
        )

    options: dict[str, Any] = {"streaming": streaming}
    if source.columns:
        options["columns"] = source.columns + [*TESTS] * tests
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or unreached is not None  # only its cache is asked
    try:
        return _load(refuse, source.repository, *source[:2], **options)
    finally:
        config.HF_HUB_OFFLINE = before


def is_parquet_folder(folder: Path) -> bool:
    """Whether a folder is laid out as a repository of the hub, without JSON lines."""
    return not any(folder.glob("*.jsonl")) and bool(_parquet_files(folder))


def open_folder(
    folder: Path, *, streaming: bool, tests: bool = False
) -> dict[str, Rows]:
    """The rows of a folder's parquet files, by split.

    Args:
      folder: a copy of the repository, or what it keeps in `full` or `data`.
      streaming: read rows only as they are asked for; else into the cache of
        `datasets` first.
      tests: as in `open_source`.

    Raises:
      ValueError: if a file is damaged, also while the rows are read.
    """

    def refuse(error: Exception) -> ValueError:
        return ValueError(
            f"data.source must hold whole parquet files, got {named_line(error)} in "
            f"{folder}"
        )

    found = _parquet_files(folder)
    for file in chain(*found.values()):
        refuse_pointer(file)
    options: dict[str, Any] = {"streaming": streaming}
    try:
        from pyarrow.parquet import read_schema  # type: ignore[import-untyped]

        names = set(read_schema(next(iter(found.values()))[0]).names)
    except Exception as error:
        raise refuse(error) from error
    if CODE_CONTESTS.keys() <= names and "solution" not in names:
        options["columns"] = [*CODE_CONTESTS, *(TESTS if tests else ())]
    # `datasets` reads file names as patterns.
    options["data_files"] = {
        split: [escape(str(file.resolve())) for file in files]
        for split, files in found.items()
    }
    return _load(refuse, str(folder), "parquet", **options)


def _parquet_files(folder: Path) -> dict[str, list[Path]]:
    for name in FOLDERS:
        inner = folder / name
        found = {split: sorted(inner.glob(f"{split}-*.parquet")) for split in SPLITS}
        if any(found.values()):
            return {split: files for split, files in found.items() if files}
    return {}


def _unreached(repository: str) -> Exception | None:
    """Why the hub does not answer; None if it does, be it that there is no such data.

    Asked once: where nothing answers `datasets` tries for half a minute.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(repository, timeout=10)
    except HfHubHTTPError:
        return None
    except Exception as error:
        return error
    return None


def _load(refuse: Refuse, where: str, *name: str, **options: Any) -> dict[str, Rows]:
    """What `load_dataset` finds, by split in our words; `where` is for messages."""
    from datasets import load_dataset

    try:
        found = load_dataset(*name, **options)
    except Exception as error:  # of its HTTP client, its builders, the disk
        raise refuse(error) from error
    return {
        ours: _read(found[theirs], f"{where}, split {theirs}", refuse)
        for theirs, ours in SPLITS.items()
        if theirs in found
    }


def _read(rows: Iterable[Row], where: str, refuse: Refuse) -> Rows:
    try:
        for number, row in enumerate(rows, 1):
            yield f"{where}, row {number}", row
    except Exception as error:
        raise refuse(error) from error
