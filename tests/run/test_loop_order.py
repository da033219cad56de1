"""The loop prepares the next batch while a step is computed, and reads it later."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from shared.config.fields import TrackingConfig, TrainConfig
from shared.run.loop import Loop
from shared.run.peers import ALONE
from shared.run.watchdog import Watchdog
from shared.state.checkpoints import Progressed
from tests.small import micro_batches, small_batch, small_config

STEPS = 4


class Number:
    """A number on a device: asking for it waits, and is written down."""

    def __init__(self, value, name, events):
        self.value, self.name, self.events = value, name, events

    def __float__(self):
        if self.name:
            self.events.append(self.name)
        return float(self.value)


class Train:
    """Batches that tell when they are prepared."""

    def __init__(self, events):
        self.events, self.number = events, 0
        self.batch = micro_batches(small_batch(), 1).changed(np.asarray)

    def __next__(self):
        self.number += 1
        self.events.append(f"batch {self.number}")
        return self.batch

    def state(self):
        return {"epoch": 0, "step": self.number}


def run(tmp_path, *, asynchronous, eval_every=100):
    events = []
    cfg = small_config(heads=1, tracking=TrackingConfig(to="none"))
    cfg = replace(cfg, train=TrainConfig(eval_every=eval_every, save_every=100))
    alone = {"peers": ALONE, "watchdog": Watchdog(factor=0, least=1)}
    run = SimpleNamespace(cfg=cfg, path=tmp_path, resumed=False, started=0.0, **alone)
    loop = Loop(
        run,
        Progressed({}, first_eval={}),
        0,
        STEPS,
        Train(events),
        [small_batch()],
        asynchronous=asynchronous,
    )
    with loop:
        for number, batches in loop:
            events.append(f"step {number}")
            loss = Number(1.0, f"read {number}", events)
            metrics = {"loss": loss, "rows_head_0": Number(5, "", events)}
            loop.log(number, metrics, batches)
            if loop.evaluates(number):
                loop.evaluated(number, [{"nll_K": [1.0], "count_K": [1.0]}])
    return events


def test_the_next_batch_is_prepared_while_a_step_is_computed(tmp_path):
    """Nobody asks for a number of step n before step n + 1 is under way."""
    assert run(tmp_path, asynchronous=True) == [
        *("batch 1", "step 1"),
        *("batch 2", "step 2", "read 1"),
        *("batch 3", "step 3", "read 2"),
        *("batch 4", "step 4", "read 3"),
        "read 4",
    ]


@pytest.mark.parametrize("asynchronous, eval_every", [(False, 100), (True, 1)])
def test_a_step_is_read_at_once_where_something_needs_it(
    tmp_path, asynchronous, eval_every
):
    """Where steps are computed at once; and before each evaluation."""
    events = run(tmp_path, asynchronous=asynchronous, eval_every=eval_every)
    one_by_one = [[f"batch {n}", f"step {n}", f"read {n}"] for n in range(1, STEPS + 1)]
    assert events == [event for step in one_by_one for event in step]
