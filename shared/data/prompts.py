"""The prompts of a data set, for what is measured of decoding and not trained on."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from shared.data import hub
from shared.data.examples import Rows, convert_rows, read_lines

SPLITS = ("test", "test_mini", "validation")  # the first that a source has
HUB = tuple(name for name in hub.SOURCES if name != "code_contests")


def load_prompts(source: str, limit: int = 0) -> list[str]:
    """The first prompts of a source's test split, as its format makes them.

    Args:
      source: `minis`, `mbpp` or `humaneval` (on the hub, or in its cache), a folder of
        `SPLIT.jsonl` files or of parquet files, or one .jsonl file, all of it.
      limit: at most so many; 0 takes all.

    Raises:
      ValueError: if there is no such source, it has none of these splits, or a row is
        no example of a known format.
    """
    examples = convert_rows(_rows(source), "auto", limit).rows
    if not examples:
        raise ValueError(f"--data must hold at least one example, got none in {source}")
    return [example["prompt"] for example in examples]


def _rows(source: str) -> Rows:
    folder = Path(source).expanduser()
    if source == "minis":
        return _of_folder(files("shared.data").joinpath("minis", "mbpp"), source)
    if source in HUB:
        return _one(hub.open_source(source, streaming=False), source)
    if hub.is_parquet_folder(folder):
        return _one(hub.open_folder(folder, streaming=True), source)
    if folder.is_dir():
        return _of_folder(folder, source)
    if folder.suffix == ".jsonl":
        return read_lines(folder)
    raise ValueError(
        f"--data must be minis, {', '.join(HUB)}, a folder or one .jsonl file, got "
        f"{source!r}"
    )


def _of_folder(folder: Traversable, source: str) -> Rows:
    places = {name: folder.joinpath(f"{name}.jsonl") for name in SPLITS}
    return _one({n: read_lines(f) for n, f in places.items() if f.is_file()}, source)


def _one(rows: dict[str, Rows], source: str) -> Rows:
    for name in SPLITS:
        if name in rows:
            return rows[name]
    raise ValueError(
        f"--data must have one of the splits {', '.join(SPLITS)}, got none of them in "
        f"{source!r}"
    )
