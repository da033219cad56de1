"""The rows of all heads, on all devices: who walks over which, and what is added up.

Each device walks over its own rows, or over those it shares with `tensor`, with its
part of the vocabulary (`vocabulary.py`). The pieces of an unembedding are gathered over
`fsdp` before, and its gradients summed once, after: inside the loops (`row_blocks.py`)
only `tensor` exchanges anything, a few numbers of each row.

Axes: K heads, V vocabulary, D width, R rows of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from wmtp_jax import layout, row_blocks
from wmtp_jax.layout import DATA, FSDP, ROWS, TENSOR
from wmtp_jax.row_blocks import Rows, Scored
from wmtp_jax.vocabulary import Shared

Heads = tuple[jax.Array, jax.Array, jax.Array | None]  # states_KRD, shared_VD, own_KVD


@dataclass(frozen=True)
class Core:
    """What is found of rows: the arrays it starts from, and how each part is filled.

    Attributes:
      first: head 0's rows.
      shared: those of other heads that have its unembedding.
      own: those of one with an unembedding of its own.
    """

    start: Callable[..., Any]
    first: Callable[..., Any]
    shared: Callable[..., Any]
    own: Callable[..., Any]


NLL = Core(row_blocks.nll_start, *[row_blocks.nll] * 3)
BEST = Core(row_blocks.best_start, *[row_blocks.best] * 3)
GRADIENT = Core(row_blocks.gradient_start, *[row_blocks.nll_and_gradient] * 3)
# Of a trunk that never learns: of each head, only what its own parameters need.
GRADIENT_OF_HEADS = Core(
    row_blocks.gradient_start,
    first=row_blocks.constant_nll,
    shared=partial(row_blocks.nll_and_gradient, of_unembed=False),
    own=partial(row_blocks.nll_and_gradient, of_states=False),
)
# Where arrays lie: `[K, R, ...]`, `[R, ...]`, and what is kept of a softmax.
SPLIT, BY_ROW = PartitionSpec(None, ROWS), PartitionSpec(ROWS)
BY_PART = Scored(PartitionSpec(ROWS, TENSOR), BY_ROW, BY_ROW, BY_ROW)


def run(
    core: Core,
    mesh: Mesh | None,
    heads: Heads,
    rows: tuple[jax.Array, ...],
    scored: Scored | None = None,
) -> tuple[tuple[jax.Array, ...], Any, Any]:
    """`core` of every head: arrays of rows `[K, R, ...]`, and sums for each W."""
    if mesh is None or mesh.size == 1:
        return _of_heads(core, ONE, heads, rows, scored)
    pieces, heads = _pieces(mesh, heads)

    def here(heads, rows, scored):
        found, *sums = _of_heads(core, pieces, heads, rows, scored)
        # Of a row that is shared: the gradient of its state, part by part.
        found = found[0], *(pieces.added_up(x) for x in found[1:])
        return found, *jax.lax.psum(sums, pieces.summed_over)

    of_scored = BY_ROW if scored is None else BY_PART
    of_shared, of_own = pieces.spec, PartitionSpec(None, *pieces.spec)
    everywhere = jax.shard_map(
        here,
        mesh=mesh,
        in_specs=((SPLIT, of_shared, of_own), SPLIT, of_scored),
        out_specs=(SPLIT, of_shared, of_own),
        check_vma=False,
    )
    return everywhere(heads, rows, scored)


def run_scored(mesh: Mesh | None, heads: Heads, rows: tuple[jax.Array, ...]) -> Scored:
    """nll and softmax of one head; on many devices each keeps those of its rows."""
    if mesh is None or mesh.size == 1:
        return row_blocks.scored_nll(heads[1], _flat(heads[0], rows))
    pieces, heads = _pieces(mesh, heads)

    def here(states_KRD, unembed_VD, rows):
        flat = _flat(states_KRD, rows, pieces.shared)
        return row_blocks.scored_nll(pieces.gathered(unembed_VD), flat)

    return jax.shard_map(
        here,
        mesh=mesh,
        in_specs=(SPLIT, pieces.spec, SPLIT),
        out_specs=BY_PART,
        check_vma=False,
    )(heads[0], heads[1], rows)


@dataclass(frozen=True)
class Pieces:
    """How devices share an unembedding, which lies as `layout.kept_spec` says.

    Attributes:
      spec: where the pieces of one lie; None: one device has it all.
      shared: by which devices the logits of a row are, if not by one.
    """

    spec: PartitionSpec | None = None
    shared: Shared | None = None

    def _along(self, axis: str) -> int | None:
        """The axis of W that is in pieces over one of the mesh."""
        names = [x if isinstance(x, tuple) else (x,) for x in self.spec or ()]
        return next((i for i, at in enumerate(names) if axis in at), None)

    @property
    def summed_over(self) -> tuple[str, ...]:
        """The axes over which each device still has a part of what is scattered."""
        return ROWS if self._along(FSDP) is None else (DATA,)

    def gathered(self, unembed_VD: jax.Array) -> jax.Array:
        """What a device multiplies with, before its rows are walked over.

        All of W over `fsdp`; over `tensor` the part of its tokens, with rows of 0 at
        the end where their number is not to be divided.
        """
        if (axis := self._along(FSDP)) is not None:
            unembed_VD = jax.lax.all_gather(unembed_VD, FSDP, axis=axis, tiled=True)
        if self.shared is None or self._along(TENSOR) == 0:
            return unembed_VD
        count = jax.lax.axis_size(TENSOR)
        more = -unembed_VD.shape[0] % count
        unembed_VD = jnp.pad(unembed_VD, ((0, more), (0, 0)))
        if self._along(TENSOR) == 1:
            return jax.lax.all_to_all(unembed_VD, TENSOR, 0, 1, tiled=True)
        V = unembed_VD.shape[0] // count
        first = jax.lax.axis_index(TENSOR) * V
        return jax.lax.dynamic_slice_in_dim(unembed_VD, first, V)

    def scattered(self, d_VD: jax.Array | None) -> jax.Array | None:
        """The gradient of what was gathered, as W lies, summed over `fsdp`."""
        if d_VD is None:
            return None
        if self.shared is not None and (axis := self._along(TENSOR)) != 0:
            if axis == 1:
                d_VD = jax.lax.all_to_all(d_VD, TENSOR, 1, 0, tiled=True)
            else:
                d_VD = jax.lax.all_gather(d_VD, TENSOR, tiled=True)
            d_VD = d_VD[: self.shared.vocab_size]
        if (axis := self._along(FSDP)) is None:
            return d_VD
        return jax.lax.psum_scatter(d_VD, FSDP, scatter_dimension=axis, tiled=True)

    def added_up(self, x: jax.Array) -> jax.Array:
        """Over the devices that share a row."""
        return x if self.shared is None else jax.lax.psum(x, self.shared.axis)


ONE = Pieces()


def _pieces(mesh: Mesh, heads: Heads) -> tuple[Pieces, Heads]:
    """How these devices share unembeddings, and those in the type of their products."""
    states_KRD, shared_VD, own_KVD = heads
    shared = Shared(TENSOR, shared_VD.shape[0]) if mesh.shape[TENSOR] > 1 else None
    spec = layout.kept_spec(["unembed"], shared_VD.shape, mesh)
    dtype = states_KRD.dtype
    own_KVD = None if own_KVD is None else own_KVD.astype(dtype)
    return Pieces(spec, shared), (states_KRD, shared_VD.astype(dtype), own_KVD)


def _of_heads(
    core: Core,
    pieces: Pieces,
    heads: Heads,
    rows: tuple[jax.Array, ...],
    scored: Scored | None,
) -> tuple[tuple[jax.Array, ...], Any, Any]:
    """Heads that share an unembedding are one set of rows; others run one by one."""
    states_KRD, shared_VD, own_KVD = heads
    K, R, _ = states_KRD.shape
    flat = _flat(states_KRD, rows, pieces.shared)
    shared_VD = pieces.gathered(shared_VD)
    found, of_own = core.start(flat), None
    alike = core.first is core.shared and scored is None and own_KVD is None
    kept = () if scored is None else (scored,)
    first = K * R if alike else R
    found, of_shared = core.first(shared_VD, flat, found, 0, first, *kept)
    if own_KVD is not None:

        def one(found, head):
            own_VD, first = head
            found, d_VD = core.own(pieces.gathered(own_VD), flat, found, first, R)
            return found, pieces.scattered(d_VD)

        found, of_own = jax.lax.scan(one, found, (own_KVD, R * jnp.arange(1, K)))
    elif not alike and K > 1:
        found, more = core.shared(shared_VD, flat, found, R, (K - 1) * R)
        of_shared = more if of_shared is None else of_shared + more
    found = tuple(x.reshape(K, R, *x.shape[1:]) for x in found)
    return found, pieces.scattered(of_shared), of_own


def _flat(
    states_KRD: jax.Array, rows: tuple[jax.Array, ...], shared: Shared | None = None
) -> Rows:
    """Rows of `[K, R]`, head after head."""
    K, R, D = states_KRD.shape
    flat = (x.reshape(K * R) for x in rows)
    return Rows(states_KRD.reshape(K * R, D), *flat, shared=shared)
