"""What an arm costs, and how many steps it may make of a budget.

    steps = floor((amount - before) / step)

`before` is what comes ahead of the first step: the reference that is trained first, the
passes of frozen models over the data, the first stage of the value head. An arm that
needs them gets fewer steps than another for the same amount, unless they are only told
of (`preparing`).

    steps    updates of a model: of the run, and of its reference
    tokens   real tokens of those updates
    flops    of all products that are needed (`shared/tracking/flops.py`)
    seconds  measured by a short run of each arm
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import get_args

import numpy as np

from shared.algorithms import PLAIN
from shared.comparison.grid.found import Budget, Cost, Kind, Preparing, Share
from shared.config.fields import Config
from shared.data.batches import Batch
from shared.data.documents import Split
from shared.run.inputs import (
    Inputs,
    count_steps,
    make_batches,
    reference_batches,
    train_batches,
)
from shared.signals.columns import needs_model
from shared.targets import target_mask
from shared.tracking.flops import head_flops, step_flops, trunk_flops

KINDS = get_args(Kind)
MOST_STEPS = 200  # that the cost of one is the mean of


def step_cost(cfg: Config, split: Split, steps: int) -> Cost:
    """Mean cost of a step over the first of them.

    Weights are not known before the run: the rows that the rule `skip` drops are taken
    to be its share of every head's targets.

    Args:
      split: that is trained on.
      steps: of the run, >= 1.
    """
    train = train_batches(cfg, split)
    costs = [_of_batch(cfg, batch) for batch in islice(train, min(steps, MOST_STEPS))]
    tokens, flops = (float(np.mean(x)) for x in zip(*costs, strict=True))
    return Cost(steps=1, tokens=tokens, flops=flops)


def _of_batch(cfg: Config, batch: Batch) -> tuple[float, float]:
    L = batch.document_BL.shape[-1]
    document_BL = batch.document_BL.reshape(-1, L)
    target_BL = batch.target_BL.reshape(-1, L)
    mask_BLK = target_mask(document_BL, target_BL, num_heads=cfg.heads.count)
    kept = 1 - cfg.weighting.skip_fraction * (cfg.rule == "skip")
    rows_K = kept * mask_BLK.sum((0, 1))
    return float((document_BL > 0).sum()), step_flops(cfg, batch, rows_K.tolist())


def preparing_cost(inputs: Inputs) -> Cost:
    """What a run needs before its first step, as if no cache held any of it."""
    cfg = inputs.cfg
    steps, tokens, flops = 0.0, 0.0, 0.0
    reference = inputs.models.get("reference")
    if reference is not None and reference.folder is None:  # it is trained first
        split = inputs.splits["reference"]
        _, steps = reference_batches(reference.cfg, split)
        each = step_cost(reference.cfg, split, steps)
        tokens, flops = steps * each.tokens, steps * each.flops
    for name in inputs.models:
        if needs_model(cfg, name):
            model = inputs.models[name]
            flops += sum(_pass_flops(model.cfg, x) for x in model.splits.values())
    if cfg.algorithm.value_head and cfg.critic.stage1_epochs:
        flops += _stage1_flops(cfg, inputs)
    return Cost(steps=steps, tokens=tokens, flops=flops)


def _pass_flops(cfg: Config, split: Split) -> float:
    """One forward pass over a split, with the nll of every target."""
    lengths = [len(document.tokens) for document in split.documents]
    targets = sum(int(document.target.sum()) for document in split.documents)
    plain = replace(cfg, heads=replace(cfg.heads, count=1, weight=()))
    return trunk_flops(cfg.model, lengths) + head_flops(plain, lengths, 0, targets)


def _stage1_flops(cfg: Config, inputs: Inputs) -> float:
    """The trunk once, then forward and backward of the value head in every epoch.

    Early stopping may make it less; the epochs that are allowed are counted.
    """
    D = cfg.model.width
    head = 6 * (D * (D // 2) + D // 2)
    flops = 0.0
    for split in inputs.scored.values():
        lengths = [len(document.tokens) for document in split.documents]
        flops += trunk_flops(cfg.model, lengths)
        flops += cfg.critic.stage1_epochs * head * sum(lengths)
    return flops


def plain_config(cfg: Config) -> Config:
    """Plain next-token training with what else the config says."""
    heads = replace(cfg.heads, count=1, weight=())
    weighting = replace(cfg.weighting, rule="default", control="none")
    return replace(cfg, algo=PLAIN, heads=heads, weighting=weighting)


def usual_steps(cfg: Config, inputs: Inputs) -> int:
    """Steps that the options of training give any arm."""
    train, _ = make_batches(cfg, inputs.splits, None)
    return count_steps(cfg, train)


def usual_amount(
    kind: Kind, preparing: Preparing, costs: Mapping[str, tuple[int, Cost, Cost]]
) -> float:
    """The budget if none is named: what the dearest arm takes with its usual steps.

    So that no arm is trained for less than the options of training say, and cheaper
    ones for more.

    Args:
      costs: of each arm its usual steps, the cost of one, and of what comes before.
    """
    return max(
        steps * spent(step, kind)
        + (spent(before, kind) if preparing == "counts" else 0)
        for steps, step, before in costs.values()
    )


def spent(cost: Cost, kind: Kind) -> float:
    """What of a budget of that kind.

    Raises:
      ValueError: for seconds that were not measured.
    """
    value = getattr(cost, kind)
    if value is None:
        raise ValueError("a budget of seconds needs seconds that were measured")
    return float(value)


def share_of(budget: Budget, name: str, step: Cost, before: Cost) -> Share:
    """What an arm makes of the budget.

    Raises:
      ValueError: if nothing is left for a step.
    """
    each, ahead = spent(step, budget.kind), spent(before, budget.kind)
    left = budget.amount - (ahead if budget.preparing == "counts" else 0)
    steps = math.floor(left / each * (1 + 1e-9))
    if steps < 1:
        raise ValueError(
            f"--budget must leave every arm a step, got {budget.amount:.4g} "
            f"{budget.kind}, of which {name} takes {ahead:.4g} before its first one "
            f"and {each:.4g} for each (--preparing told leaves the first out)"
        )
    return Share(steps=steps, step=step, before=before)


def epochs_for(cfg: Config, inputs: Inputs, seeds: Sequence[int], steps: int) -> int:
    """Epochs that hold so many steps with every seed, which packs rows its own way."""
    most = 1
    for seed in seeds:
        train, _ = make_batches(replace(cfg, seed=seed), inputs.splits, None)
        made, epochs = 0, 0
        while made < steps:
            made += train.steps_per_epoch(epochs)
            epochs += 1
        most = max(most, epochs)
    return most
