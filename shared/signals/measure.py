"""The signals of a run: what is left to measure, and all columns when it is done.

What a frozen model says of a token never changes, so one pass over the data fills a
cache on disk, and training pays for no such forward at all.
"""

from dataclasses import asdict, replace

from shared.config.fields import Config
from shared.data.documents import Split
from shared.signals.cache import signal_key
from shared.signals.columns import COLUMNS, BySplit, needed
from shared.signals.kept import Signals
from shared.signals.passes import FrozenModel, Pass

SCORED_SPLITS = ("train", "validation")
SIGNALS_VERSION = 3  # counted up when a pass here, or the model, gives other numbers


def passes_of(
    cfg: Config, models: dict[str, FrozenModel], computed_by: dict[str, str]
) -> list[Pass]:
    """The passes behind a run's columns, not yet read, those of one model together.

    Args:
      models: frozen models by their names in `COLUMNS`.
      computed_by: kind of the device, and versions of the library that computes.
    """
    return [
        _pass(name, models[COLUMNS[name].model], split, cfg, computed_by)
        for name in needed(cfg)
        if COLUMNS[name].model
        for split in models[COLUMNS[name].model].splits.values()
    ]


def _pass(
    name: str,
    model: FrozenModel,
    split: Split,
    cfg: Config,
    computed_by: dict[str, str],
) -> Pass:
    column, own = COLUMNS[name], model.cfg
    assert column.of_document is not None
    of_model = replace(own.model, name="", revision="")  # where it lies is not it
    key = signal_key(
        **model.identity,
        **computed_by,
        signal=name,
        model=asdict(of_model),
        tokenizer=model.tokenizer.digest,
        dtype=own.machine.dtype,
        version=SIGNALS_VERSION,
        data=split.digest,
        max_length=cfg.data.max_length,
        layout=cfg.data.layout,
        loss_on=cfg.data.loss_on,
    )
    return Pass(
        name=name,
        model=model,
        split=split,
        key=key,
        cfg=cfg,
        length_of=column.length_of,
        of_document=column.of_document,
    )


def collect(cfg: Config, passes: list[Pass], splits: dict[str, Split]) -> Signals:
    """Every column of the run, when all passes are at their end."""
    columns: dict[str, BySplit] = {}
    sources: dict[str, str] = {}
    for wanted in passes:
        assert wanted.values is not None, f"{wanted.title} is not measured"
        columns.setdefault(wanted.name, {})[wanted.split.name] = wanted.values
        sources[COLUMNS[wanted.name].told] = wanted.model.source
    for name in needed(cfg):
        row = COLUMNS[name]
        if row.made is not None:
            columns[name], sources[row.told] = row.made(columns, splits, sources)
    return Signals(sources, columns)
