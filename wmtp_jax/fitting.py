"""The step compiled, in micro-batches that fit into memory.

Sums are divided once a step, so a micro-batch that does not fit can be halved without
changing what is computed: the same rows in the same order, to rounding (dropout draws
other masks).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jax.sharding import Mesh

from shared.config.fields import Config
from shared.data.batches import Batch
from shared.messages import first_line
from shared.run.memory import cut_finer, fitting_splits
from wmtp_jax import layout
from wmtp_jax.sharding import is_out_of_memory
from wmtp_jax.state import TrainState
from wmtp_jax.step import compile_step


class FittedStep:
    """The jitted step, called as that is.

    Args:
      jitted: of `make_train_step`.
      mesh: the devices, among which rows are split.
      place: puts a batch where the step wants it.
      splits: into how many parts micro-batches were cut before; 1 is whole.

    Attributes:
      compiled: the program in use.
      splits: into how many parts micro-batches are cut.
    """

    compiled: Any = None

    def __init__(
        self,
        jitted: Any,
        cfg: Config,
        mesh: Mesh,
        place: Callable[[Batch], Batch],
        splits: int = 1,
    ) -> None:
        self.jitted, self.cfg, self.place = jitted, cfg, place
        self.parts = layout.row_parts(mesh)
        # Several processes would have to agree, and the rows of each are its own.
        self.can_cut = jax.process_count() == 1
        wanted = splits if self.can_cut else 1
        self.splits = fitting_splits(cfg.data.batch_size, wanted, self.parts)

    def compile(self, state: TrainState) -> None:
        """Compiles the step before the first batch is there.

        Raises:
          MemoryError: if no micro-batch is small enough.
        """
        while self.compiled is None:
            cfg, splits = self.cfg, self.splits
            rows = replace(cfg.data, batch_size=cfg.data.batch_size // splits)
            times = replace(cfg.train, accumulation=cfg.train.accumulation * splits)
            cut = replace(cfg, data=rows, train=times)
            try:
                self.compiled = compile_step(self.jitted, state, cut)
            except jax.errors.JaxRuntimeError as error:
                self._cut_finer(int(state.step) + 1, error)
            self._is_new = True

    def __call__(
        self, number: int, state: TrainState, batches: Batch
    ) -> tuple[TrainState | None, dict[str, Any]]:
        """`(new state, metrics)` of step `number`, as `train_step` makes it.

        The state is None where memory ran out when it had already been given away: the
        next call takes smaller micro-batches.

        Raises:
          MemoryError: if no micro-batch is small enough.
        """
        while True:
            self.compile(state)
            try:
                rows = self.place(self._cut(batches))
                new_state, metrics = self.compiled(state, rows)
                if self._is_new:  # a program that has run once has its memory
                    jax.block_until_ready(metrics)
                    self._is_new = False
            except jax.errors.JaxRuntimeError as error:
                self._cut_finer(number, error)
            else:
                if self.splits > 1:
                    size = self.cfg.data.batch_size // self.splits
                    metrics["micro_batch_rows"] = size
                return new_state, metrics
            if any(x.is_deleted() for x in jax.tree.leaves(state)):
                return None, {}

    def _cut(self, batches: Batch) -> Batch:
        """`[A, B, L]` as `[A * splits, B / splits, L]`, the rows in their order."""
        A, B, L = batches.tokens_BL.shape
        shape = (A * self.splits, B // self.splits, L)
        return (
            batches if self.splits == 1 else batches.changed(lambda x: x.reshape(shape))
        )

    def _cut_finer(self, number: int, error: jax.errors.JaxRuntimeError) -> None:
        if not is_out_of_memory(error) or not self.can_cut:
            raise error
        rows, reason = self.cfg.data.batch_size, first_line(error)
        self.splits = cut_finer(number, rows, self.splits, reason, self.parts)
        self.compiled = None
