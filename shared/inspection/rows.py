"""What a page or a terminal is told: runs, examples, and frames of numbers as JSON.

A frame is what was found at one step, `{"step": n, "of": {ID: [numbers of each run]}}`,
in one line. It holds nothing that the same step would not give again, so that the lines
of a run which was stopped and went on are those of one that was not.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.algorithms import head_weights
from shared.config.fields import Config
from shared.inspection.tokens import Weighed, has_scores
from shared.tracking.console import number

LABELS = {  # of `Weighed.numbers`, in words
    "ref_nll": "nll of the reference",
    "reward": "reward of the token",
    "value": "value before it",
    "td_error": "TD error",
    "advantage": "advantage",
    "score": "score",
}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One example, as tokens.

    Attributes:
      id: unique on a page.
      name: split, index and id in words, or the file of a text.
      note: what is to be known of it, if anything.
      tokens: ids.
      texts: of each token (`shared/inspection/texts.py`).
    """

    id: str
    name: str
    tokens: Sequence[int]
    texts: Sequence[str]
    note: str = ""


def told_of_run(name: str, cfg: Config) -> dict[str, Any]:
    """What a page says of a run: how it weighs, and its heads."""
    scored = has_scores(cfg)
    bounds = cfg.weighting.weight_floor, cfg.weighting.weight_ceiling
    return {
        "name": name,
        "heads": cfg.heads.count,
        "head_weight": list(head_weights(cfg)),
        "bounds": list(bounds) if cfg.rule == "soft" and scored else None,
        "facts": [list(fact) for fact in facts_of(cfg)],
    }


def facts_of(cfg: Config) -> list[tuple[str, str]]:
    """How a run weighs, in words: algorithm, score, rule, scope, control."""
    row, own = cfg.algorithm, cfg.weighting
    found = [("algorithm", cfg.algo), ("score", row.formula), ("rule", _rule(cfg))]
    if cfg.rule == "soft":
        scopes = {
            "document": "the document: the mean weight of all its targets is 1",
            "window": "the window: at each position the heads' mean weight is 1",
        }
        found.append(("scope", scopes[own.scope]))
    if own.control != "none":
        controls = {
            "shuffle": "shuffle: every score stands at another target of the document",
            "random": "random: a normal number stands in place of every score",
        }
        found.append(("control", controls[own.control]))
    if cfg.data.loss_on == "completion":
        found.append(("targets", "of the completion alone"))
    if len(set(head_weights(cfg))) > 1:
        weights = ", ".join(map(number, head_weights(cfg)))
        found.append(("head weights", f"{weights} (beside the weights shown)"))
    return found


def _rule(cfg: Config) -> str:
    own = cfg.weighting
    if cfg.rule == "skip":
        share = number(100 * own.skip_fraction)
        return f"skip: the lowest {share} % of the targets are dropped"
    if cfg.rule == "uniform":
        return "uniform: every target weighs 1"
    return (
        f"soft: temperature {number(own.temperature)}, between "
        f"{number(own.weight_floor)} and {number(own.weight_ceiling)}"
    )


def told_of_example(shown: Shown) -> dict[str, Any]:
    """What a page says of an example."""
    return {
        "id": shown.id,
        "name": shown.name,
        "note": shown.note,
        "ids": [int(token) for token in shown.tokens],
        "texts": list(shown.texts),
    }


def frame(step: int, found: Mapping[str, Sequence[Weighed]]) -> str:
    """One line of JSON: what each run makes of each example at a step.

    Args:
      found: by `Shown.id`, of each run.
    """
    of = {name: [_numbers(weighed) for weighed in runs] for name, runs in found.items()}
    return json.dumps({"step": step, "of": of}, separators=(",", ":"))


def _numbers(weighed: Weighed) -> dict[str, Any]:
    found: dict[str, Any] = {
        "weight": [_list(x_T) for x_T in weighed.weight_TK.T],
        "nll": [_list(x_T) for x_T in weighed.nll_TK.T],
    }
    if weighed.clipped_TK.any():
        found["clipped"] = [x_T.tolist() for x_T in weighed.clipped_TK.T]
    found["numbers"] = {name: _list(x_T) for name, x_T in weighed.numbers.items()}
    wanted = ("weight_mean", "weight_min", "weight_max", "weight_ess", "kept_fraction")
    found["metrics"] = {name: _short(weighed.metrics[name]) for name in wanted}
    return found


def _list(x_T: np.ndarray) -> list[float | None]:
    return [_short(x) for x in x_T.tolist()]


def _short(x: float) -> float | None:
    """Three digits, as a page shows them; null for what is not there."""
    return float(f"{x:.3g}") if math.isfinite(x) else None
