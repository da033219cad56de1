"""What is looked at: an example of a run's own data, or any text, with its signals."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shared.config.fields import Config
from shared.config.layers import load_config
from shared.data.batches import Batch, Columns, make_batch
from shared.data.documents import load_examples, load_splits
from shared.data.examples import Example
from shared.data.tokenised import Document, Split, check_rows, tokenise
from shared.data.tokenizer import Tokenizer
from shared.inspection.rows import Shown
from shared.inspection.texts import texts_of
from shared.signals.columns import COLUMNS, BySplit, needed
from shared.signals.kept import read_signals
from shared.signals.measure import SCORED_SPLITS
from shared.signals.passes import FrozenModel
from shared.state.checkpoints import require_step, steps_in
from shared.state.frozen_models import (
    find_reference,
    find_reward_model,
    untrained_reference,
)
from shared.state.model_source import tokenizer_of_run
from shared.state.run_folder import check_backend, find, recorded_inputs

# `(model, what it is trained on first if it is, a batch, `Column.answer`)` -> `[B, L]`.
Answer = Callable[[FrozenModel, Split | None, Batch, str], np.ndarray]
TEXT = "text"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A run and one of its checkpoints."""

    path: Path
    step: int
    cfg: Config
    tokenizer: Tokenizer

    @property
    def name(self) -> str:
        """As it is called on a page."""
        return f"{self.path.name}, step {self.step}"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One document as one run has it.

    Attributes:
      split: of that document alone.
      columns: signals of the run's algorithm.
    """

    run: Found
    shown: Shown
    split: Split
    columns: Columns

    @property
    def batch(self) -> Batch:
        """Its row `[1, L]`, with the controls' noise that training draws for it."""
        return _row(self.split, self.columns, self.run.cfg, self.run.cfg.seed)


def find_run(name: str, step: int | None, backend: str, option: str) -> Found:
    """The run that an option names, and the checkpoint: its newest unless told.

    Raises:
      ValueError: if there is none, or the other trainer has written it.
    """
    path, named = find(name, ".", option)
    if step is not None and named not in (None, step):
        raise ValueError(f"--step must be that of {option} {name}, got {step}")
    other = {"wmtp_jax": "wmtp_torch_mps", "wmtp_torch_mps": "wmtp_jax"}[backend]
    check_backend(path, backend, f"python -m {other}.inspect shows it")
    folder = path / "checkpoints"
    wanted = require_step(folder, steps_in(folder), named if step is None else step)
    cfg = load_config(path / "config.yaml")
    machine = replace(cfg.machine, device="auto", attention="auto")
    cfg = replace(cfg, output_dir=str(path.parent), machine=machine)
    tokenizer = tokenizer_of_run(path, cfg)
    return Found(path=path, step=wanted, cfg=cfg, tokenizer=tokenizer)


def example_of_run(run: Found, asked: str) -> Subject:
    """An example of the run's train or validation split, with the signals it has kept.

    Args:
      asked: `[train:|validation:]`, then its id, or its index from 0.

    Raises:
      ValueError: if there is no such example, or data or signals are not any more what
        the run was started with.
    """
    prefix, colon, rest = asked.partition(":")
    has_split = bool(colon) and prefix in SCORED_SPLITS
    name, wanted = (prefix, rest) if has_split else ("validation", asked)
    split = _splits(run, (name,))[name]
    index = _index(split, wanted)
    document, cfg = split.documents[index], run.cfg
    signals = read_signals(
        run.path / "signals", cfg.algorithm.signals, {split.name: split}
    )
    if signals is None and cfg.algorithm.signals:
        missing = ", ".join(cfg.algorithm.signals)
        raise ValueError(
            f"the run must have kept its signals ({missing}), got no "
            f"{run.path / 'signals'}"
        )
    columns = signals.of(name, cfg.algorithm.signals) if signals else {}
    cut = len(document.tokens) == cfg.data.max_length
    return Subject(
        run=run,
        shown=_shown(
            document,
            run.tokenizer,
            f"{name} {index}: {document.id}",
            f"it fills all data.max_length = {len(document.tokens)} tokens" * cut,
        ),
        split=replace(split, documents=(document,)),
        columns={column: [values[index]] for column, values in columns.items()},
    )


def text_of(run: Found, file: str, answer: Answer, trains: bool) -> Subject:
    """Any text as one document of targets, its signals measured by the run's models.

    Args:
      file: whose text it is; `-` reads stdin.
      answer: asks a frozen model.
      trains: whether a reference that the run has trained first, and not kept, may be
        trained again.

    Raises:
      ValueError: if the file holds no text, or a signal cannot be measured.
    """
    cfg, text = run.cfg, _read_text(file)
    name = Path(file).name if file != "-" else "stdin"
    example: Example = {"id": name, "prompt": "", "completion": text}
    own = replace(cfg.data, chat=False, loss_on="all")
    split = tokenise(TEXT, [example], run.tokenizer, own)
    check_rows({TEXT: split}, cfg.model.vocab_size, run.tokenizer, "the model")
    (document,) = split.documents
    note = f"cut at data.max_length = {cfg.data.max_length} tokens" * split.num_cut
    return Subject(
        run=run,
        shown=_shown(document, run.tokenizer, f"text: {name}", note),
        split=split,
        columns=_measured(run, example, split, answer, trains),
    )


def require_same(first: Subject, other: Subject) -> None:
    """Raises: ValueError, if two runs do not have the same example."""
    ours, theirs = (x.split.documents[0] for x in (first, other))
    same = ours.id == theirs.id and np.array_equal(ours.tokens, theirs.tokens)
    if not same:
        raise ValueError(
            f"--beside must have the same tokens of {first.shown.name}, got "
            f"{len(theirs.tokens)} tokens of {other.shown.name} in "
            f"{other.run.path.name}, not these {len(ours.tokens)}"
        )


def _shown(document: Document, tokenizer: Tokenizer, name: str, note: str) -> Shown:
    tokens = document.tokens.tolist()
    texts = texts_of(tokens, tokenizer)
    return Shown(id=document.id, name=name, tokens=tokens, texts=texts, note=note)


def _index(split: Split, wanted: str) -> int:
    """Of an id, else of a number."""
    ids = [document.id for document in split.documents]
    if wanted in ids:
        return ids.index(wanted)
    if wanted.isascii() and wanted.isdigit() and int(wanted) < len(ids):
        return int(wanted)
    raise ValueError(
        f"--example must be an id of the {split.name} split ({ids[0]!r} is its first) "
        f"or an index from 0 to {len(ids) - 1}, got {wanted!r}"
    )


def _splits(run: Found, names: tuple[str, ...]) -> dict[str, Split]:
    """Splits of the run's data, which have to be those it was started with."""
    examples = load_examples(run.cfg.data)
    splits = load_splits(run.cfg.data, run.tokenizer, splits=names, examples=examples)
    recorded = recorded_inputs(run.path)
    for name, split in splits.items():
        if recorded.get(name, split.digest) != split.digest:
            raise ValueError(
                f"data.source of {run.path} must hold what the run was started with, "
                f"got another {name} split"
            )
    return splits


def _read_text(file: str) -> str:
    required = "--text must be a file of UTF-8 text"
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        text = raw.decode("utf-8").replace("\r\n", "\n")
    except OSError as error:
        raise ValueError(f"{required}, got {file!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        at = f"byte {error.start} is none"
        raise ValueError(f"{required}, got {file!r}, whose {at}") from None
    if not text:
        raise ValueError(f"{required}, got {file!r}, which is empty")
    return text


# Signals of a text.


def _measured(
    run: Found, example: Example, split: Split, answer: Answer, trains: bool
) -> Columns:
    """The columns of the run's algorithm for one document, as `collect` makes them."""
    cfg, found = run.cfg, dict[str, BySplit]()
    splits, sources = {TEXT: split}, dict[str, str]()
    asked = [name for name in needed(cfg) if COLUMNS[name].model]
    if any(COLUMNS[name].made for name in needed(cfg)):  # moments of the train split
        splits["train"] = _splits(run, ("train",))["train"]
        train = {"train": splits["train"]}
        kept = read_signals(run.path / "signals", asked, train)
        if kept is None:
            raise ValueError(
                f"{_missing(cfg)} of a text needs the signals of the run's train "
                f"split, got no {run.path / 'signals'}"
            )
        found = {name: dict(kept.columns[name]) for name in asked}
    for name in asked:
        column = COLUMNS[name]
        assert column.of_document is not None
        model, first = _frozen(run, column.model, example, split, trains)
        sources[column.told] = model.source
        own = model.splits["train"]
        answer_BL = answer(model, first, _row(own, {}, cfg, None), column.answer)
        (document,) = own.documents
        answer_T = np.asarray(answer_BL, np.float32)[0, : len(document.tokens)]
        values = (column.of_document(answer_T, document, model),)
        found.setdefault(name, {})[TEXT] = values
    for name in needed(cfg):
        if (made := COLUMNS[name].made) is not None:
            found[name], _ = made(found, splits, sources)
    return {name: found[name][TEXT] for name in cfg.algorithm.signals}


def _frozen(
    run: Found, model: str, example: Example, split: Split, trains: bool
) -> tuple[FrozenModel, Split | None]:
    """A frozen model about the text, and the split that it is trained on first."""
    cfg = run.cfg
    examples = {name: [example] for name in SCORED_SPLITS}
    splits = dict.fromkeys(SCORED_SPLITS, split)
    if model == "reference" and not cfg.reference.model:
        if not trains:
            raise ValueError(
                f"{_missing(cfg)} of a text needs the run's reference, got none: it "
                "was trained first and not kept (--train-reference trains it again)"
            )
        own = _splits(run, ("reference",))
        start = recorded_inputs(run.path).get("model")
        found = untrained_reference(cfg, run.tokenizer, splits | own, start)
        return found, own["reference"]
    try:
        if model == "reference":
            backend = recorded_inputs(run.path).get("backend", "")
            own_model = find_reference(cfg, backend, run.tokenizer, examples, splits)
        else:
            own_model = find_reward_model(cfg, examples)
    except ValueError as error:
        raise ValueError(f"{_missing(cfg)} of a text: {error}") from None
    return own_model, None


def _missing(cfg: Config) -> str:
    return " and ".join(cfg.algorithm.signals)


def _row(split: Split, columns: Columns, cfg: Config, seed: int | None) -> Batch:
    shape = (1, cfg.data.max_length)
    return make_batch([[0]], split, columns, shape=shape, num_documents=1, seed=seed)
