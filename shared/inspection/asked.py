"""What the command lines of both `inspect` ask for, and what they show and keep."""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.files import cannot_write, write_text
from shared.inspection import terminal
from shared.inspection.in_training import FOLDER
from shared.inspection.page import page
from shared.inspection.rows import frame, told_of_run
from shared.inspection.subjects import (
    Answer,
    Subject,
    example_of_run,
    find_run,
    require_same,
    text_of,
)
from shared.inspection.tokens import Weighed
from shared.run.main import home_path
from shared.tracking import console

LEAD = (
    "What each token weighs as a target: the weight that a training step would give it "
    "(dropout aside). A bar under each token grows with its weight."
)


def parser_of(package: str, doc: str) -> argparse.ArgumentParser:
    """The command line, which both trainers have.

    Args:
      doc: whose first line says what it is for.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {package}.inspect", description=doc.splitlines()[0]
    )
    add: Callable[..., Any] = parser.add_argument
    add("--model", required=True, help="run, or RUN/checkpoints/STEP")
    add("--step", type=int, help="of the checkpoint of --model (the newest)")
    add("--example", help="id or index of an example of the validation split, or "
        "train:INDEX, validation:INDEX (0)")  # fmt: skip
    add("--text", help="file of a text to weigh instead; - reads stdin")
    add("--train-reference", action="store_true",
        help="for --text: train a reference again that was not kept")  # fmt: skip
    add("--beside", help="another run, or checkpoint, to show beside it")
    add("--head", type=int, help="the only head to print (all)")
    add("--to", type=home_path, help=f"folder of the page (RUN/{FOLDER})")
    return parser


def read_subjects(
    asked: argparse.Namespace, backend: str, answer: Answer
) -> list[Subject]:
    """The document as the run has it, and as the one beside it has it.

    Args:
      answer: asks a frozen model about a text.

    Raises:
      ValueError: if there is no such run or example, or the two have different ones.
    """
    if asked.text is not None and asked.example is not None:
        raise ValueError(
            f"--text must stand without --example, got --example {asked.example}"
        )
    runs = [find_run(asked.model, asked.step, backend, "--model")]
    if asked.beside:
        runs.append(find_run(asked.beside, None, backend, "--beside"))
    heads = max(run.cfg.heads.count for run in runs)
    if asked.head is not None and not 0 <= asked.head < heads:
        raise ValueError(f"--head must be 0 to {heads - 1}, got {asked.head}")
    found: list[Subject] = []
    for run in runs:
        if asked.text is not None and found and found[0].run.path == run.path:
            subject = replace(found[0], run=run)  # its signals are those of the run
        elif asked.text is not None:
            subject = text_of(run, asked.text, answer, asked.train_reference)
        else:
            subject = example_of_run(run, asked.example or "0")
        if found:
            require_same(found[0], subject)
        found.append(subject)
    return found


def tell(
    asked: argparse.Namespace, subjects: Sequence[Subject], weighed: Sequence[Weighed]
) -> Path:
    """Prints the tokens and writes the page; returns its file.

    Raises:
      ValueError: if it cannot be written.
    """
    pairs = list(zip(subjects, weighed, strict=True))
    for subject, of in pairs:
        count = subject.run.cfg.heads.count
        heads = range(count) if asked.head is None else [asked.head]
        own = [k for k in heads if k < count]
        terminal.show(subject.run.name, subject.shown, of, own)
    console.say(f"\n{terminal.legend()}\n")
    terminal.summary([(subject.run.name, of) for subject, of in pairs])
    file = write_page(asked.to, subjects, weighed)
    console.say(f"page: {file}")
    return file


def write_page(
    folder: Path | None, subjects: Sequence[Subject], weighed: Sequence[Weighed]
) -> Path:
    """Writes the page of one example, a whole file or none."""
    first = subjects[0]
    folder = folder or first.run.path / FOLDER
    runs = [told_of_run(x.run.name, x.run.cfg) for x in subjects]
    line = frame(first.run.step, {first.shown.id: weighed})
    text = page(first.shown.name, LEAD, runs, [first.shown], [line])
    file = folder / f"{file_name(subjects)}.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        required = "--to must be a folder that can be written"
        raise cannot_write(required, folder, error) from None
    return file


def file_name(subjects: Sequence[Subject]) -> str:
    """Of split, example and steps, with letters that every disk takes."""
    first = subjects[0]
    name, _, own = first.shown.name.partition(": ")
    parts = [name, own, f"step {first.run.step}"]
    parts += [f"beside {x.run.name}" for x in subjects[1:]]
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(parts)).strip("-.")
    return plain[:150]
