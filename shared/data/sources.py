"""The rows of a source that a user names, by split, whatever its form."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from shared.data import hub
from shared.data.examples import Rows, read_lines

WHOLE = ""  # in the place of a split: all rows of one file


def open_source(
    source: str, splits: tuple[str, ...], *, minis: str = "mbpp", tests: bool = False
) -> dict[str, Rows] | None:
    """Rows by split, none of them read yet; None if there is no such source.

    Args:
      source: `minis`, a key of `hub.SOURCES` (on the hub, or in its cache), a folder of
        `SPLIT.jsonl` files or of parquet files, or one .jsonl file.
      splits: that are looked for in a folder of .jsonl files.
      minis: which of the packaged data sets `minis` means.
      tests: as in `hub.open_source`.

    Raises:
      ValueError: as `hub.open_source` and `hub.open_folder`; also while rows are read.
    """
    folder = Path(source).expanduser()
    if source == "minis":
        return _of_folder(files("shared.data").joinpath("minis", minis), splits)
    if source in hub.SOURCES:
        return hub.open_source(source, streaming=False, tests=tests)
    if hub.is_parquet_folder(folder):
        return hub.open_folder(folder, streaming=True, tests=tests)
    if folder.is_dir():
        return _of_folder(folder, splits)
    if folder.suffix == ".jsonl":
        return {WHOLE: read_lines(folder)}
    return None


def _of_folder(folder: Traversable, splits: tuple[str, ...]) -> dict[str, Rows]:
    places = {name: folder.joinpath(f"{name}.jsonl") for name in splits}
    return {name: read_lines(file) for name, file in places.items() if file.is_file()}
