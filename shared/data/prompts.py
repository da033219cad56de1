"""The prompts of a data set, for what is measured of decoding and not trained on."""

from shared.data import hub
from shared.data.examples import Rows, convert_rows
from shared.data.sources import WHOLE, open_source

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
    found = None
    if source in HUB or source not in hub.SOURCES:
        found = open_source(source, SPLITS)
    if found is None:
        raise ValueError(
            f"--data must be minis, {', '.join(HUB)}, a folder or one .jsonl file, got "
            f"{source!r}"
        )
    for name in (*SPLITS, WHOLE):
        if name in found:
            return found[name]
    raise ValueError(
        f"--data must have one of the splits {', '.join(SPLITS)}, got none of them in "
        f"{source!r}"
    )
