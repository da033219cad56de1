"""The K targets of every position, and which of them count: never across a document.

Pure functions of Array API arrays, like `shared/weighting.py`.

Axes: B rows, L positions, K heads.
"""

from typing import Any

from jaxtyping import Bool, Int

from shared.axes import check, same_shape, shift_to_heads

Array = Any  # numpy.ndarray, jax.Array, torch.Tensor, ...


def shift_targets(
    tokens_BL: Int[Array, "B L"], *, num_heads: int
) -> Int[Array, "B L K"]:
    """The token that head `k` at position `l` predicts.

        target[b,l,k] = tokens[b, l+1+k], and 0 past the end of the row

    Args:
      tokens_BL: token ids.
      num_heads: K, >= 1.

    Returns:
      Token ids in the dtype and on the device of `tokens_BL`. A 0 past the end is no
      token: only `target_mask` says which targets count.

    Raises:
      ValueError: if `num_heads` is under 1.

    Example:
      >>> import numpy as np
      >>> shift_targets(np.array([[5, 6, 7]]), num_heads=2).tolist()
      [[[6, 7], [7, 0], [0, 0]]]
    """
    check(num_heads >= 1, "num_heads must be >= 1", num_heads)
    return shift_to_heads(tokens_BL, num_heads=num_heads)


def target_mask(
    document_BL: Int[Array, "B L"], target_BL: Bool[Array, "B L"], *, num_heads: int
) -> Bool[Array, "B L K"]:
    """True where head `k` at position `l` has a target that counts.

        mask[b,l,k] = l is in a document d, and token l+1+k is in T(d) of the same d

    The position `l` itself may be a prompt token, also when only completions count.

    Args:
      document_BL: number of the document a position belongs to, from 1; 0 is padding.
      target_BL: True where the token is in the set of targets T(d) of its document.
      num_heads: K, >= 1.

    Returns:
      Booleans on the device of `document_BL`; False past the end of row or document.

    Raises:
      ValueError: if the shapes differ or `num_heads` is under 1.

    Example:
      >>> import numpy as np
      >>> document = np.array([[1, 1, 2, 2, 2, 0]])
      >>> target = np.array([[False, True, False, True, True, False]])
      >>> mask = target_mask(document, target, num_heads=2)
      >>> mask[0].astype(int).tolist()
      [[1, 0], [0, 0], [1, 1], [1, 0], [0, 0], [0, 0]]
    """
    same_shape(document=document_BL, target=target_BL)
    check(num_heads >= 1, "num_heads must be >= 1", num_heads)
    document_BL1 = document_BL[:, :, None]
    next_BLK = shift_to_heads(document_BL, num_heads=num_heads)
    counts_BLK = shift_to_heads(target_BL, num_heads=num_heads)
    return (document_BL1 > 0) & (next_BLK == document_BL1) & counts_BLK
