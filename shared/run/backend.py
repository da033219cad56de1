"""What the two trainers do in their own ways, as one record of functions each.

Everything around them (inputs, signals, the loop, what a person reads) is written once
and takes this record. `params` below is the backend's own; a tree of NumPy arrays is
`shared.huggingface.tree.Params`. `device` is what `find_device` gives, opaque here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.config.fields import Config
from shared.data.documents import Split
from shared.huggingface.tree import Params
from shared.signals.passes import Answer


@dataclass(frozen=True, kw_only=True)
class Backend:
    """The functions of one trainer.

    Attributes:
      name: its package, `wmtp_jax` or `wmtp_torch_mps`.
      versions: of the library that computes; part of what signals are known by.
      kind_of: `cpu`, `gpu` or `mps` for what `find_device` gives; also part of it.
      find_device: devices that a config asks for, checked; ValueError if they are not
        there or cannot do what it asks.
      identify: `(RUN/checkpoints, step or None)` -> step and checksum of a checkpoint.
      read_trunk: `(RUN, its config, step or None)` -> `{"trunk": ..., "heads": {}}`.
      place: a NumPy tree (of that config) -> params.
      train_reference: `(cfg, split, device)` -> params of a plain next-token model.
      make_ref_nll: `(params, cfg, device)` -> what a pass asks: `nll_BL` of a batch, in
        nats, 0 where a token is no target.
      adopt: `(FOLDER, RUN, cfg, device)`: the state in an exported folder becomes the
        first checkpoint of a new run.
      make_scores: `(params, cfg, device)` -> the same for a reward model's `score_BL`.
    """

    name: str
    versions: dict[str, str]
    kind_of: Callable[[Any], str]
    find_device: Callable[[Config], Any]
    identify: Callable[[Path, int | None], str]
    read_trunk: Callable[[Path, Config, int | None], Params]
    adopt: Callable[[Path, Path, Config, Any], None]
    place: Callable[[Params, Config, Any], Any]
    train_reference: Callable[[Config, Split, Any], Any]
    make_ref_nll: Callable[[Any, Config, Any], Answer]
    make_scores: Callable[[Any, Config, Any], Answer]


def require_usable(cfg: Config, usable: dict[str, tuple[str, ...]], name: str) -> None:
    """Holds fields of `machine` against what a backend can do.

    Raises:
      ValueError: naming the first that it cannot.
    """
    for field, values in usable.items():
        if (got := getattr(cfg.machine, field)) not in values:
            known = " or ".join(filter(None, (", ".join(values[:-1]), values[-1])))
            raise ValueError(f"machine.{field} must be {known} in {name}, got {got!r}")
