"""`train.evaluate`: bits per byte and problems solved, of the parameters of a step."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from shared.config.fields import Config
from shared.data.tokenizer import Tokenizer
from shared.decoding.requests import Sampling
from shared.evaluation.in_training import InTraining, Part
from shared.evaluation.results.of_problems import ProblemResult
from shared.evaluation.verdicts import Limits
from shared.huggingface.layers import layers_of
from shared.run.peers import ALONE, Peers
from wmtp_jax.decoding.engine import Engine
from wmtp_jax.decoding.loaded import Loaded
from wmtp_jax.decoding.programs import make_programs
from wmtp_jax.decoding.surprise import Measure, make_measure
from wmtp_jax.evaluating import How, each_result
from wmtp_jax.model import Params
from wmtp_jax.processes import whole_on_host

Tasks = Callable[[int, Params], dict[str, float]]
ROWS = 8  # programs that are written at once


def make_tasks(
    cfg: Config,
    parts: tuple[Part, ...],
    tokenizer: Tokenizer,
    num_steps: int,
    stopped: Callable[[], bool],
    peers: Peers = ALONE,
) -> Tasks:
    """A function `(step, params) -> metrics`, empty where nothing is due.

    The parameters are copied layer by layer, as decoding wants them, and let go again:
    for that time they take their place twice. Programs compile once.

    Args:
      stopped: whether the run is to end.
      peers: the first of which asks the model; the others give it their pieces.
    """
    asked = InTraining(cfg, parts, tokenizer, cfg.model.max_positions)
    model = Loaded(
        name="",
        cfg=cfg.model,
        heads=replace(cfg.heads, count=1, weight=(), only=False, target="data"),
        params={},
        tokenizer=tokenizer,
        ends=(tokenizer.eos_id,),
    )
    programs = make_programs(model)

    def tasks(number: int, params: Params) -> dict[str, float]:
        if not asked.due(number, num_steps):
            return {}
        tree = {"trunk": whole_on_host(params["trunk"], peers), "heads": {}}
        if not peers.is_first:
            return {}
        layers = layers_of(tree, cfg.model, model.heads, jnp.asarray)
        now = replace(model, params=layers)
        engine = Engine(now, rows=ROWS, drafter="none", programs=programs)
        measure = make_measure(now, engine.prompts)

        def each(part: Part, pairs: list[Any]) -> Iterator[ProblemResult]:
            return results_of(part, pairs, now, engine, measure)

        return asked.measure(each, stopped)

    return tasks


def results_of(
    part: Part, pairs: list[Any], model: Loaded, engine: Engine, measure: Measure
) -> Iterator[ProblemResult]:
    """The results of a part's problems; what is written when it ends is given up."""
    how = How(
        form=part.form,
        samples=int(part.level is not None),
        sampling=Sampling(),
        level=part.level,
        limits=Limits(),
    )
    try:
        yield from each_result(
            [problem for problem, _ in pairs],
            [ids for _, ids in pairs],
            how,
            tokenizer=model.tokenizer,
            engine=engine if part.level is not None else None,
            measure=measure if part.bits else None,
        )
    finally:
        engine.cancel_all()
