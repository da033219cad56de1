"""Contamination: does the training data share text with a benchmark's problems?

A model that has seen a benchmark's problems scores too well on it. Every training
document is held against the test problems of MBPP and HumanEval, and against files that
the user names, in three ways:

  exact       its statement or its solution is one of the benchmark's
  normalised  the same after every run of white space has become one space
  ngram13     the document has 13 words in a row that a problem has too

Nothing may be fetched for this and no text of a benchmark is in this package: it
carries their fingerprints, 64 bits of BLAKE2b per text, in `fingerprints.json`, which
`tests/script/build_fingerprints.py` writes. Of a million texts held against a million,
one is found by chance in 18 million checks.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from shared.data.examples import Example, read_examples

KINDS = {"exact": "exact", "normalised": "normalised", "ngram13": "13-gram"}
GRAM = 13  # words, the length that GPT-3 and PaLM were checked with
# A shorter statement or solution is said by chance (`return x + y`); white space counts
# as normalised. Its words still count in 13-grams.
LEAST_LENGTH = 20
SHOWN = 5  # ids in a report
FINGERPRINTS = "fingerprints.json"
WORD = re.compile(r"\w+|[-+*/%<>=!&|^~]+|[^\w\s]")

Prints = dict[str, frozenset[int]]  # kind -> fingerprints of a benchmark


@dataclass(frozen=True)
class Report:
    """What training documents share with benchmarks.

    Attributes:
      num_documents: that were held against them.
      found: benchmark -> kind -> ids (`SPLIT/ID`) of documents that share such text. A
        document is in every kind that it fits.
    """

    num_documents: int
    found: dict[str, dict[str, list[str]]]

    def sharing(self, benchmark: str) -> list[str]:
        """Documents that share text with a benchmark, of whatever kind."""
        return _union(self.found[benchmark])

    def lines(self) -> list[str]:
        """One sentence per benchmark, for the log."""
        return [self._line(name, kinds) for name, kinds in self.found.items()]

    def to_json(self) -> dict[str, Any]:
        """Counts and first ids per benchmark and kind, for `summary.json`."""
        return {
            "documents": self.num_documents,
            "benchmarks": {
                name: {"documents": len(_union(kinds))}
                | {
                    kind: {"documents": len(ids), "ids": ids[:SHOWN]}
                    for kind, ids in kinds.items()
                }
                for name, kinds in self.found.items()
            },
        }

    def _line(self, name: str, kinds: dict[str, list[str]]) -> str:
        sharing = _union(kinds)
        of = f"contamination: {len(sharing)} of {self.num_documents} training documents"
        if not sharing:
            return f"{of} share text with {name}"
        counts = ", ".join(f"{KINDS[kind]} {len(ids)}" for kind, ids in kinds.items())
        more = ", ..." if len(sharing) > SHOWN else ""
        return (
            f"{of} share text with {name} ({counts}: ids "
            f"{', '.join(sharing[:SHOWN])}{more})"
        )


def check(
    splits: Mapping[str, Iterable[Example]], against: Sequence[str] = ()
) -> Report:
    """Holds every document of some splits against the benchmarks.

    Args:
      splits: name -> examples, what is trained on. Whole texts, also of documents that
        a row will cut.
      against: more files of JSON lines, or folders (their `test.jsonl`, or else every
        .jsonl file), beside the benchmarks of this package.

    Raises:
      ValueError: if one of `against` cannot be read as examples.
    """
    packaged = load_fingerprints()
    benchmarks = packaged | {
        f"./{name}" if name in packaged else name: prints_of(read_problems(name))
        for name in against
    }
    return hold_against(splits, benchmarks)


def hold_against(
    splits: Mapping[str, Iterable[Example]], benchmarks: Mapping[str, Prints]
) -> Report:
    """Holds every document of some splits against fingerprints (`prints_of`)."""
    found: dict[str, dict[str, list[str]]] = {
        name: {kind: [] for kind in KINDS} for name in benchmarks
    }
    num_documents = 0
    for split, examples in splits.items():
        for example in examples:
            num_documents += 1
            own = _prints(example)
            for name, prints in benchmarks.items():
                for kind in KINDS:
                    if not prints[kind].isdisjoint(own[kind]):
                        found[name][kind].append(f"{split}/{example['id']}")
    return Report(num_documents, found)


def words(text: str) -> list[str]:
    """Lower-cased words, runs of operators and single marks.

    Example:
      >>> words("def f(x): return X**2")
      ['def', 'f', '(', 'x', ')', ':', 'return', 'x', '**', '2']
    """
    return WORD.findall(text.lower())


def ngrams(text: str, size: int = GRAM) -> set[str]:
    """Every `size` words in a row, joined by spaces."""
    found = words(text)
    return {" ".join(found[i : i + size]) for i in range(len(found) - size + 1)}


def load_fingerprints(file: Path | None = None) -> dict[str, Prints]:
    """Fingerprints by benchmark: those of this package, or of a file that was built."""
    path = file or files("shared.data").joinpath(FINGERPRINTS)
    packed = json.loads(path.read_text("utf-8"))["fingerprints"]
    benchmarks: dict[str, Prints] = {}
    for name in sorted(packed):
        benchmark, _, kind = name.rpartition(".")
        numbers = np.frombuffer(base64.b64decode(packed[name]), "<u8")
        benchmarks.setdefault(benchmark, {})[kind] = frozenset(numbers.tolist())
    return benchmarks


def prints_of(examples: Iterable[Example]) -> Prints:
    """The fingerprints of all problems of a benchmark together."""
    every = [_prints(example) for example in examples]
    return {kind: frozenset().union(*(own[kind] for own in every)) for kind in KINDS}


def read_problems(source: str) -> list[Example]:
    """The problems of one .jsonl file, or of a folder, as `check` takes them."""
    path = Path(os.path.expanduser(source))
    test = path / "test.jsonl"
    found = [test] if test.is_file() else sorted(path.glob("*.jsonl"))
    if path.suffix == ".jsonl" and not path.is_dir():
        found = [path]
    if not found:
        raise ValueError(
            "data.check_against must name .jsonl files, or folders that hold some, "
            f"got {source!r}"
        )
    return [row for file in found for row in read_examples(file, "auto").rows]


def _prints(example: Example) -> dict[str, set[int]]:
    """What is compared of an example of either side."""
    statement, solution = _statement(example["prompt"]), example["completion"]
    normal = {part: " ".join(part.split()) for part in (statement, solution)}
    long = [part for part in normal if len(normal[part]) >= LEAST_LENGTH]
    texts: dict[str, Iterable[str]] = {
        "exact": long,
        "normalised": [normal[part] for part in long],
        "ngram13": ngrams(f"{statement}\n{solution}"),
    }
    return {kind: set(map(_fingerprint, of)) for kind, of in texts.items()}


def _statement(prompt: str) -> str:
    """What a prompt asks for, without the form that `shared/data/examples.py` gives it.

    MBPP's and the contests' statements stand there in a docstring, MBPP's with a test
    behind it; they must be found again in files that have them bare.

    Example:
      >>> _statement('\"\"\"\\nAdd two.\\nassert f(1) == 3\\n\"\"\"\\n')
      'Add two.'
    """
    quoted = re.fullmatch(r'"""\n(.*?)(?:\nassert .*)?\n"""\n', prompt, re.DOTALL)
    return quoted[1] if quoted else prompt


def _fingerprint(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _union(kinds: Mapping[str, Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(name for ids in kinds.values() for name in ids))
