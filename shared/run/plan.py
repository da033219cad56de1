"""How long a run is, said before its first step: which of its limits wins."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from shared.config.fields import Config
from shared.data.batches import TrainBatches
from shared.run.inputs import Inputs, count_steps

log = logging.getLogger("wmtp")
Rate = Callable[[int, int], float]  # (steps of the run, update 0, 1, ...) -> lr


def plan_steps(inputs: Inputs, given: dict[str, Any], train: TrainBatches) -> int:
    """Updates of the whole run; says which limit they come from.

    Args:
      given: fields of files and options, by dotted name.
    """
    num_steps = count_steps(inputs.cfg, train)
    log_limits(inputs, given, num_steps)
    return num_steps


def log_limits(inputs: Inputs, given: dict[str, Any], num_steps: int) -> None:
    """Says how many steps there are, and which limits cannot be reached in them."""
    cfg = inputs.cfg
    epochs, most = cfg.train.epochs, cfg.train.max_steps
    if most > num_steps:
        log.warning(
            "%d steps: train.epochs = %d end before train.max_steps = %d",
            num_steps,
            epochs,
            most,
        )
    elif most:
        said = "%d steps: train.max_steps, within train.epochs = %d"
        log.info(said, num_steps, epochs)
    else:
        log.info("%d steps: train.epochs = %d", num_steps, epochs)
    for line in _unreached(cfg, given, num_steps):
        log.warning("%s", line)
    largest = max(len(split.documents) for split in inputs.splits.values())
    if cfg.data.max_examples > largest:
        log.warning(
            "data.max_examples = %d leaves nothing out: no split has more than %d",
            cfg.data.max_examples,
            largest,
        )


def _unreached(cfg: Config, given: dict[str, Any], num_steps: int) -> Iterator[str]:
    """One line for each limit that another one comes before."""
    train, critic = cfg.train, cfg.critic
    for name, what in {"eval_every": "evaluated", "save_every": "saved"}.items():
        every = getattr(train, name)
        if every > num_steps:
            yield (
                f"train.{name} = {every} is more than the {num_steps} steps: the model "
                f"is {what} only at the start and at the end"
            )
    before_end = (num_steps - 1) // train.eval_every
    if train.patience > before_end:
        yield (
            f"train.patience = {train.patience} cannot end the run: {before_end} "
            f"evaluations (train.eval_every = {train.eval_every}) come before its end"
        )
    if cfg.optimizer.warmup_steps >= num_steps:
        yield (
            f"optimizer.warmup_steps = {cfg.optimizer.warmup_steps} last for all "
            f"{num_steps} steps: the learning rate only rises"
        )
    if cfg.head_warmup >= num_steps:
        yield (
            f"heads.warmup_steps = {cfg.head_warmup} last for all {num_steps} "
            "steps: the trunk is never trained"
        )
    epochs = critic.stage1_epochs * cfg.algorithm.value_head
    if 0 < epochs <= critic.stage1_patience and "critic.stage1_patience" in given:
        yield (
            f"critic.stage1_patience = {critic.stage1_patience} cannot end stage 1, "
            f"which has at most critic.stage1_epochs = {epochs}"
        )


def log_jump(
    cfg: Config,
    before: Config | None,
    train: TrainBatches,
    steps: tuple[int, int],
    rate: Rate,
) -> None:
    """Says that a run which goes on with another length takes another rate.

    Args:
      before: its config until now, of a run that goes on.
      steps: made so far, and of the whole run.
      rate: learning rate of an update, by the length of the run.
    """
    start, new = steps
    if start > new:
        log.warning("step %d is past the end, step %d: nothing to train", start, new)
    if before is None or before.train == cfg.train or not 0 < start < new:
        return
    old = count_steps(replace(cfg, train=before.train), train)
    was, now = rate(old, start), rate(new, start)
    if not math.isclose(was, now, rel_tol=1e-6):
        log.warning(
            "the learning rate goes from %.2e at step %d to %.2e at step %d: the %s "
            "schedule now ends at step %d, before it ended at step %d",
            rate(old, start - 1),
            start,
            now,
            start + 1,
            cfg.optimizer.schedule,
            new,
            old,
        )
