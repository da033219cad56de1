#!/usr/bin/env python
"""Writes the tables in the docs that the code decides: fields, algorithms, head types.

    python tests/script/doc_tables.py            # renews them where they stand
    python tests/script/doc_tables.py --check    # exit code 1 if one is not up to date

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from shared.algorithms import ALGORITHMS
from shared.config.fields import Config
from shared.config.layers import MODELS, PRESETS, flatten, preset_names
from shared.config.ranges import field_types
from shared.head_types import HEAD_TYPES
from shared.signals.columns import COLUMNS, needed
from shared.state.run_folder import FREE_ON_RESUME

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/configuration.md")
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# Fields of the config.


def field_docs(group: type) -> dict[str, str]:
    """The line under each field of a group, as its source has it."""
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(group))).body
    assert isinstance(made, ast.ClassDef)
    found = {}
    for field, after in zip(made.body, made.body[1:], strict=False):
        said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and said:
            found[field.target.id] = " ".join(after.value.value.split())
    return found


def option(path: str) -> str:
    """A field as the command line has it."""
    return f"--{path.replace('_', '-')}"


def shown(value: Any) -> str:
    """A default as a YAML file has it."""
    if value in ("", ()):
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def what(kind: Any, notes: tuple[Any, ...], doc: str) -> str:
    """A field's line, with its choices or its range where the line has none."""
    if not doc:  # the line of a table, which names its rows
        (doc,) = (note.help for note in notes if getattr(note, "help", None))
        doc = doc.partition(";")[0]
    if get_origin(kind) is Literal:
        return f"{doc} ({', '.join(f'`{x}`' for x in get_args(kind))})"
    ranges = [note for note in notes if isinstance(note, str) and note not in doc]
    return "; ".join([doc, *ranges])


def group_fields(group: type, prefix: str) -> str:
    """The fields of one group, under its own line."""
    defaults, docs, rows = flatten(Config()), field_docs(group), []
    for name, (kind, notes) in field_types(group).items():
        if is_dataclass(kind):
            continue
        aliases = [x for note in notes for x in getattr(note, "aliases", None) or ()]
        spelled = ", ".join(f"`{x}`" for x in (option(prefix + name), *aliases))
        said = what(kind, notes, docs.get(name, ""))
        rows.append((spelled, shown(defaults[prefix + name]), said))
    first = (group.__doc__ or "").strip().splitlines()[0]
    title = f"`{prefix[:-1]}`" if prefix else "Without a group"
    columns = ("option", "default", "what it says")
    return f"\n### {title}\n\n{first}\n\n{table(columns, rows)}"


def fields() -> str:
    """Every field of the config, group by group."""
    kinds = {name: kind for name, (kind, _) in field_types(Config).items()}
    groups = {name: kind for name, kind in kinds.items() if is_dataclass(kind)}
    parts = [group_fields(kind, f"{name}.") for name, kind in groups.items()]
    return "".join([group_fields(Config, ""), *parts, "\n"])


def resume() -> str:
    """The fields that may change when a run is resumed."""
    return "".join(f"- `{option(path)}`\n" for path in sorted(FREE_ON_RESUME))


# Presets.


def purpose(file: Any) -> str:
    """What a preset says that it is for."""
    said = re.search(r"# Purpose: (.*?)\n# Hardware:", file.read_text(), re.DOTALL)
    assert said, file
    return " ".join(line.lstrip("# ") for line in said[1].splitlines())


def presets() -> str:
    """The presets of `--model`, and of `--config` and `--recipe`."""
    rows = [
        (f"`{given} {name}`", purpose(folder / f"{name}.yaml"))
        for given, folder in (("--model", MODELS), ("", PRESETS))
        for name in preset_names(folder)
    ]
    named = [(x.replace("` ", "`"), said) for x, said in rows]
    return table(("preset", "what for"), named)


# Algorithms and head types.


def needs(name: str) -> str:
    """What an algorithm trains or asks beside the model."""
    found = [COLUMNS[signal].told for signal in needed(Config(algo=name))]
    found += ["value head"] if ALGORITHMS[name].value_head else []
    return ", ".join(found) or "-"


def algorithms() -> str:
    """One row each: its formula, the rule, what it needs."""
    rows = (
        (f"`{name}`", row.doc, f"`{row.formula}`", row.rule, needs(name))
        for name, row in ALGORITHMS.items()
    )
    return table(("`--algo`", "in words", "score of token j", "rule", "needs"), rows)


def head_types() -> str:
    """One row each: what it is."""
    rows = ((f"`{name}`", row.doc) for name, row in HEAD_TYPES.items())
    return table(("`--head-type`", "a head k >= 1 is"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "algorithms": algorithms,
    "head_types": head_types,
    "fields": fields,
    "presets": presets,
    "resume": resume,
}


def renewed(text: str) -> str:
    """A page with its tables as the code has them now."""
    return PLACE.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args(argv)
    stale = []
    for name in PAGES:
        before = (ROOT / name).read_text()
        if (after := renewed(before)) != before:
            stale.append(name)
            if not asked.check:
                (ROOT / name).write_text(after)
    print(", ".join(stale) or "all tables are up to date")
    return 1 if stale and asked.check else 0


if __name__ == "__main__":
    sys.exit(main())
