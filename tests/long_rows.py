"""Rows to attend in, and what attention is by definition, in NumPy and float64.

Axes: B rows, L positions, N query heads, M key and value heads, H width of a head.
"""

from typing import NamedTuple

import numpy as np

# Documents of two rows, by their lengths: ragged, of one token, a whole row; the rest
# is padding.
ROWS = ((11, 1, 1, 17, 3), (37,))
LENGTH = 37
SHARED = {"own keys": (4, 4), "two keys for four queries": (4, 2), "one key": (3, 1)}
H = 8


class Case(NamedTuple):
    """What is attended to, and the gradient of the answer, 0 in padding."""

    q_BLNH: np.ndarray
    k_BLMH: np.ndarray
    v_BLMH: np.ndarray
    d_out_BLNH: np.ndarray
    document_BL: np.ndarray


def documents(rows=ROWS, length=LENGTH) -> np.ndarray:
    """`document_BL`, 0 for padding."""
    document_BL = np.zeros((len(rows), length), np.int32)
    for row, lengths in zip(document_BL, rows, strict=True):
        numbers = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        row[: len(numbers)] = numbers
    return document_BL


def case(N: int, M: int, rows=ROWS, length=LENGTH, dtype="float32") -> Case:
    """Scores of some 3: a softmax that is neither flat nor at one key."""
    rng, document_BL = np.random.default_rng(N + M), documents(rows, length)
    heads = (N, M, M, N)
    arrays = [rng.normal(size=(*document_BL.shape, n, H)).astype(dtype) for n in heads]
    arrays[0] *= 2
    arrays[3] *= document_BL[:, :, None, None] > 0
    return Case(*arrays, document_BL)


def right(given: Case) -> list[np.ndarray]:
    """`(out, d_q, d_k, d_v)`, whole; `out` is 0 in padding."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in given[:4])
    shared, document_BL = q.shape[2] // k.shape[2], given.document_BL
    k, v = (np.repeat(x, shared, axis=2) for x in (k, v))
    L, scale = q.shape[1], q.shape[3] ** -0.5
    seen_BLL = document_BL[:, :, None] == document_BL[:, None, :]
    seen_B1LL = (seen_BLL & np.tri(L, dtype=bool))[:, None]
    score = np.where(seen_B1LL, scale * np.einsum("bqnh,bknh->bnqk", q, k), -np.inf)
    p = np.exp(score - score.max(axis=3, keepdims=True))
    p /= p.sum(axis=3, keepdims=True)
    out = np.einsum("bnqk,bknh->bqnh", p, v)
    d_p = np.einsum("bqnh,bknh->bnqk", d_out, v)
    d_score = scale * p * (d_p - (p * d_p).sum(axis=3, keepdims=True))
    d_q = np.einsum("bnqk,bknh->bqnh", d_score, k)
    d_k = np.einsum("bnqk,bqnh->bknh", d_score, q)
    d_v = np.einsum("bnqk,bqnh->bknh", p, d_out)
    d_k, d_v = (x.reshape(*x.shape[:2], -1, shared, H).sum(axis=3) for x in (d_k, d_v))
    return [out * (document_BL > 0)[:, :, None, None], d_q, d_k, d_v]
