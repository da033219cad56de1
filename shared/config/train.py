"""How long a run is, what happens every so many steps, and what it puts up with."""

from dataclasses import dataclass
from typing import Annotated

from shared.config.ranges import Checked


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """How long, and what happens every so many steps."""

    epochs: Annotated[int, "in [1, 1000000]"] = 3
    """passes over the training split"""
    max_steps: Annotated[int, ">= 0"] = 0
    """ends the run earlier; 0 leaves it to the epochs"""
    accumulation: Annotated[int, ">= 1"] = 1
    """micro-batches whose gradients make one step, >= 1"""
    eval_every: Annotated[int, ">= 1"] = 50
    """steps between evaluations on the validation split, >= 1; also at start and end"""
    save_every: Annotated[int, ">= 1"] = 50
    """steps between checkpoints, >= 1; also at the end"""
    keep_checkpoints: Annotated[int, ">= 1"] = 2
    """newest checkpoints that stay on disk, >= 1"""
    keep_best: bool = False
    """keep the model of the best validation nll, too, and export it"""
    export: bool = True
    """write the model as a Hugging Face folder into the run folder at the end"""
    patience: Annotated[int, ">= 0"] = 0
    """evaluations without a better validation nll that end the run; 0 never does"""
    min_delta: Annotated[float, ">= 0"] = 0.0
    """what counts as better, nats, >= 0"""
    max_skipped: Annotated[int, ">= 0"] = 3
    """updates in a row that may be skipped (not finite); one more is a roll-back"""
    max_roll_backs: Annotated[int, ">= 0"] = 1
    """to the last good checkpoint, past the data since; one more ends the run"""
    inspect: Annotated[int, ">= 0"] = 2
    """validation examples whose weights a page keeps at each evaluation; 0: no page"""
    evaluate: tuple[str, ...] = ()
    """tasks asked beside validation: `bits`, `mbpp:50` (the first 50), `mbpp=SOURCE`"""
    evaluate_every: Annotated[int, ">= 0"] = 0
    """steps between them, a multiple of eval_every; 0: at every evaluation"""
    evaluate_seconds: Annotated[float, "> 0"] = 60.0
    """that one may take from its first answer, > 0; then fewer problems are asked"""
    watchdog: Annotated[float, ">= 0"] = 30.0
    """a step, evaluation or save of so many times the median ends the run with exit
    code 75; 0: none does"""
    watchdog_seconds: Annotated[float, "> 0"] = 300.0
    """but none of fewer seconds, > 0; a process unheard of for so long, at most 60"""
