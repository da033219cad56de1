"""Axis plumbing under the formulas: shifts, sums over documents, ranks, checks.

Array API functions like those of `shared/weighting.py`, but none of them is a formula
of the method: they move numbers between tokens and heads, and between positions and
the documents that share a row.
"""

from typing import Any

from array_api_compat import array_namespace
from array_api_compat import device as device_of
from jaxtyping import Bool, Int

Array = Any  # numpy.ndarray, jax.Array, torch.Tensor, ...


def shift_to_heads(x_BL: Array, *, num_heads: int) -> Array:
    """Lays what belongs to a target token out for the heads that predict it.

        y[b,l,k] = x[b, l+1+k], and 0 (False) past the end of the row

    Example:
      >>> import numpy as np
      >>> shift_to_heads(np.array([[5, 6, 7]]), num_heads=2).tolist()
      [[[6, 7], [7, 0], [0, 0]]]
    """
    xp = array_namespace(x_BL)
    columns = [shift_left(x_BL, k + 1) for k in range(num_heads)]
    return xp.stack(columns, axis=2)


def shift_to_tokens(x_BL: Array) -> Array:
    """Moves what head 0 says to the token it is about: `y[j] = x[j-1]`, `y[0] = 0`.

    Example:
      >>> import numpy as np
      >>> shift_to_tokens(np.array([[5.0, 6.0, 7.0]])).tolist()
      [[0.0, 5.0, 6.0]]
    """
    xp = array_namespace(x_BL)
    return xp.concat([xp.zeros_like(x_BL[:, :1]), x_BL[:, :-1]], axis=1)


def document_members(
    document_BL: Int[Array, "B L"], *, num_documents: int
) -> Bool[Array, "B L S"]:
    """True where position `l` belongs to document `s + 1`; padding (0) to none."""
    xp = array_namespace(document_BL)
    numbers_S = xp.arange(
        1, num_documents + 1, dtype=document_BL.dtype, device=device_of(document_BL)
    )
    return document_BL[:, :, None] == numbers_S[None, None, :]


def document_sum(x_BL: Array, member_BLS: Bool[Array, "B L S"]) -> Array:
    """Sums over the positions of each document: `[B, S]`."""
    xp = array_namespace(x_BL, member_BLS)
    return xp.sum(where(xp, member_BLS, x_BL[:, :, None]), axis=1, dtype=x_BL.dtype)


def to_positions(x_BS: Array, member_BLS: Bool[Array, "B L S"]) -> Array:
    """Gives every position the number of its document: `[B, L]`; 0 on padding."""
    xp = array_namespace(x_BS, member_BLS)
    return xp.sum(where(xp, member_BLS, x_BS[:, None, :]), axis=2, dtype=x_BS.dtype)


def where(xp: Any, condition: Array, x: Array) -> Array:
    return xp.where(condition, x, xp.zeros_like(x))


def shift_left(x_BL: Array, shift: int) -> Array:
    xp = array_namespace(x_BL)
    shift = min(shift, x_BL.shape[1])
    return xp.concat([x_BL[:, shift:], xp.zeros_like(x_BL[:, :shift])], axis=1)


def continues(target_BL: Array) -> Array:
    # The first token of a document is never a target, so two neighbouring targets
    # belong to one document, and a target without a next one is the last of its T(d).
    return target_BL & shift_left(target_BL, 1)


def scope_reductions(xp: Any, member_BLS: Array, scope: str) -> tuple[Any, Any, Any]:
    """Sum over a scope, a scope's number back at its targets, largest of a scope."""

    def highest_of_window(x_BLK, mask_BLK):
        lowest = xp.finfo(x_BLK.dtype).min
        top_BL1 = xp.max(xp.where(mask_BLK, x_BLK, lowest), axis=2, keepdims=True)
        return where(xp, xp.any(mask_BLK, axis=2, keepdims=True), top_BL1)

    def highest_of_document(x_BLK, mask_BLK):
        top_BL1 = highest_of_window(x_BLK, mask_BLK)
        valid_BLS = member_BLS & xp.any(mask_BLK, axis=2, keepdims=True)
        lowest = xp.finfo(x_BLK.dtype).min
        top_BS = xp.max(xp.where(valid_BLS, top_BL1, lowest), axis=1)
        return where(xp, xp.any(valid_BLS, axis=1), top_BS)

    if scope == "window":
        return (
            lambda x_BLK: xp.sum(x_BLK, axis=2, keepdims=True),
            lambda x_BL1: x_BL1,
            highest_of_window,
        )
    return (
        lambda x_BLK: document_sum(xp.sum(x_BLK, axis=2), member_BLS),
        lambda x_BS: to_positions(x_BS, member_BLS)[:, :, None],
        highest_of_document,
    )


def rank_in_document(
    xp: Any, score_BL: Array, target_BL: Array, member_BLS: Array
) -> Array:
    """0 for the lowest-scored target of a document, then 1, ...; ties by position."""
    order_BL = xp.argsort(where(xp, target_BL, score_BL), axis=1, stable=True)
    index = order_BL.dtype
    member_BLS = member_BLS & target_BL[:, :, None]
    numbers_S = xp.arange(
        1, member_BLS.shape[2] + 1, dtype=index, device=device_of(score_BL)
    )
    number_BL = xp.sum(
        xp.astype(member_BLS, index) * numbers_S[None, None, :], axis=2, dtype=index
    )
    # A second stable sort groups the ranking by document; other tokens (0) go first.
    sorted_number_BL = xp.take_along_axis(number_BL, order_BL, axis=1)
    grouped_BL = xp.argsort(sorted_number_BL, axis=1, stable=True)
    order_BL = xp.take_along_axis(order_BL, grouped_BL, axis=1)
    row_rank_BL = xp.argsort(order_BL, axis=1, stable=True)
    count_BS = xp.sum(xp.astype(member_BLS, index), axis=1, dtype=index)
    before_BS = xp.cumulative_sum(count_BS, axis=1, dtype=index) - count_BS
    others_B1 = score_BL.shape[1] - xp.sum(count_BS, axis=1, keepdims=True, dtype=index)
    return row_rank_BL - to_positions(before_BS + others_B1, member_BLS)


def same_shape(**arrays: Array) -> None:
    shapes = {name: tuple(x.shape) for name, x in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"arrays must have one shape, got {shapes}")


def check(condition: bool, required: str, got: object) -> None:
    if not condition:
        raise ValueError(f"{required}, got {got!r}")
