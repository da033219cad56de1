"""What a step holds in memory, part by part: an estimate, before anything is compiled.

    parameters               4 bytes a number
    gradient, moments        as many of each that learns (the first moment may have 2)
    activations              of every layer, kept for the backward pass (of a trunk
                             that never learns, of a third of one while it runs)
    logits                   one block of rows, and a head's copies of its unembedding
    program                  Python, libraries, compiled code

Activations are counted in copies of a layer's arrays, as each library keeps them: they
were measured (XLA's `memory_analysis`, torch's saved tensors). On a CPU in float32 the
sum of all but the program is within 25 % of what XLA asks for.

Axes: B rows, L positions, D width, F inner width, N attention heads, V vocabulary.
"""

import logging
from dataclasses import dataclass
from math import prod

from shared.config.fields import Config
from shared.config.machine import BLOCKS_FROM
from shared.head_types import HEAD_TYPES
from shared.huggingface.names import TRUNK, pieces_of
from shared.state.header import moment_names

log = logging.getLogger("wmtp")
MIB = 1024**2


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What one library holds.

    Attributes:
      widths: copies of `[B, L, D]` that a layer keeps.
      inner: of `[B, L, F]`; `gated` where the layer is gated.
      scores: of `[B, N, L, L]`; `eager` with the attention of that name.
      block_bytes: of logits in one block, at most; `block_rows` of rows.
      unembeddings: copies of one head's own matrix while its turn lasts.
      narrow: whether arrays are 16-bit where products are, with a copy of all
        parameters, and a second gradient is held where micro-batches are added up; if
        not, scores are kept as with `eager` there.
      program: MiB before any array.
    """

    widths: float
    inner: float
    gated: float
    scores: float
    eager: float
    block_bytes: int
    block_rows: int
    unembeddings: float
    narrow: bool
    program: int


COSTS = {
    "wmtp_jax": Costs(
        widths=8,
        inner=6.8,
        gated=7.2,
        scores=3,
        eager=3,
        block_bytes=256 * MIB,
        block_rows=1024,
        unembeddings=2.5,
        narrow=True,
        program=650,
    ),
    "wmtp_torch_mps": Costs(
        widths=9,
        inner=2,
        gated=4,
        scores=0,
        eager=1,
        block_bytes=256 * MIB,
        block_rows=1024,
        unembeddings=0,
        narrow=False,
        program=700,
    ),
}


def cut_finer(step: int, rows: int, splits: int, reason: str, devices: int = 1) -> int:
    """Into how many parts a micro-batch is cut next, where it did not fit; says so.

    Args:
      step: that is computed again.
      rows: of a whole micro-batch, now in `splits` parts.
      reason: the library's own words.
      devices: among which the rows of a part are split evenly.

    Raises:
      MemoryError: if a part cannot be smaller.
    """
    parts = next_splits(rows, splits, reason, devices)
    log.warning(
        "out of memory: step %d runs again in micro-batches of %d rows, the same "
        "global batch (%s)",
        step,
        rows // parts,
        reason,
    )
    return parts


def next_splits(rows: int, splits: int, reason: str, devices: int = 1) -> int:
    """The same, without a word."""
    finer = range(splits + 1, rows // devices + 1)
    parts = next((n for n in finer if rows % (n * devices) == 0), None)
    if parts is None:
        each = "" if devices == 1 else " on each device"
        raise MemoryError(does_not_fit(f"a micro-batch of one row{each}", reason))
    return parts


def does_not_fit(what: str, reason: str) -> str:
    """The line that says so, with the library's own reason."""
    return (
        f"{what} must fit into memory, got: {reason} (less data.max_length, a smaller "
        "model, or machine.rematerialise)"
    )


def fitting_splits(rows: int, splits: int, devices: int) -> int:
    """As many parts as that, or fewer where devices could not share a part evenly."""
    parts = range(min(splits, rows), 0, -1)
    return next((n for n in parts if rows % (n * devices) == 0), 1)


def count_parameters(cfg: Config) -> dict[str, int]:
    """Numbers in each part of the model: trunk, heads k >= 1, value head."""
    parts = ("value",) if cfg.algorithm.value_head else ()
    prefix = TRUNK[cfg.model.family]["prefix"]
    pieces = pieces_of(cfg.model, cfg.heads, parts, prefix=prefix)
    counts = {"trunk": 0, "heads": 0} | {name: 0 for name in parts}
    for path, leaf in {piece.path: piece.leaf for piece in pieces}.items():
        counts[path.partition("/")[0]] += prod(leaf)
    return counts


def estimate(cfg: Config, backend: str) -> dict[str, int]:
    """Bytes by part, as the module's text lists them."""
    cost, counts = COSTS[backend], count_parameters(cfg)
    numbers = sum(counts.values())
    learning = numbers - (counts["trunk"] if cfg.heads.only else 0)
    first = {"bfloat16": 2}.get(cfg.machine.first_moment, 4)
    moments = (first, 4)[: len(moment_names(cfg.optimizer))]
    # Where two gradients are made, one is added to the other.
    apart = cfg.algorithm.value_head and cfg.critic.trunk_gradient
    gradients = 1 + (cost.narrow and (cfg.train.accumulation > 1 or apart))
    half = cfg.machine.dtype != "float32"
    return {
        "parameters": (4 + 2 * (half and cost.narrow)) * numbers,
        "gradient": 4 * learning * gradients,
        "moments": sum(moments) * learning,
        "activations": _activations(cfg, cost, half),
        "logits": _logits(cfg, cost),
        "program (about)": cost.program * MIB,
    }


def in_blocks(cfg: Config) -> bool:
    """Whether training rows are attended to in blocks, on a CPU."""
    way, length = cfg.machine.attention, cfg.data.max_length
    return way == "blocks" or (way == "auto" and length >= BLOCKS_FROM)


def _activations(cfg: Config, cost: Costs, half: bool) -> int:
    """Of all layers, those of `block` heads among them."""
    model, L, width = cfg.model, cfg.data.max_length, 2 if half and cost.narrow else 4
    inner = cost.gated if model.is_rotary else cost.inner
    eager = cfg.machine.attention == "eager" or (half and not cost.narrow)
    scores = cost.eager if eager else cost.scores
    if in_blocks(cfg):
        scores = 0
    layer = cost.widths * model.width + inner * model.F
    layer += scores * model.num_attention_heads * L
    layers = 0 if cfg.heads.only else model.num_layers
    if HEAD_TYPES[cfg.heads.type].copies_block:
        layers += cfg.heads.count - 1
    kept = layer * layers
    if cfg.machine.rematerialise == "layer":  # one layer, and what goes into each
        kept = layer + model.width * layers
    rows = width * cfg.data.batch_size * L
    if cfg.heads.only:  # where it lay, logits lie later
        return round(rows * kept + max(0, rows * layer / 3 - _logits(cfg, cost)))
    return round(rows * kept)


def _logits(cfg: Config, cost: Costs) -> int:
    """One block of them, in float32, and the head's own unembedding."""
    V, D, K = cfg.model.vocab_size, cfg.model.width, cfg.heads.count
    own = any(x.shape == "VD" for x in HEAD_TYPES[cfg.heads.type].tensors)
    rows = cfg.data.batch_size * cfg.data.max_length * (1 if own else K)
    rows = min(rows, cost.block_rows, max(1, cost.block_bytes // (4 * V)))
    return round(4 * V * (rows + (cost.unembeddings * D if own and K > 1 else 0)))
