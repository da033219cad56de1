"""Which tokens may be drawn, on any library's arrays.

    logits / temperature -> the top_k largest -> of these the fewest that hold top_p of
    the probability -> of these those with min_p of the largest probability

in the order in which `transformers` applies them. Equal logits stay or go together.

Axes: R rows, V vocabulary.
"""

from typing import Any

from array_api_compat import array_namespace


def allowed(scaled_RV: Any, top_k_R: Any, top_p_R: Any, min_p_R: Any) -> Any:
    """`kept_RV`: True where a token may be drawn; the most probable one always may.

    Args:
      scaled_RV: logits over temperature, finite.
      top_k_R: whole numbers >= 0; 0 keeps all.
      top_p_R: in (0, 1].
      min_p_R: in [0, 1).

    Example:
      >>> import numpy as np
      >>> logits = np.log(np.asarray([[0.5, 0.3, 0.15, 0.05]]))
      >>> k, p, least = np.asarray([0]), np.asarray([0.7]), np.asarray([0.0])
      >>> allowed(logits, k, p, least).tolist()
      [[True, True, False, False]]
    """
    xp = array_namespace(scaled_RV, top_k_R, top_p_R, min_p_R)
    sorted_RV = xp.sort(scaled_RV, axis=1, descending=True)
    mass_R1 = mass_of(scaled_RV)
    lowest_R1, _ = lowest_allowed(sorted_RV, mass_R1, top_k_R, top_p_R, min_p_R)
    return scaled_RV >= lowest_R1


def mass_of(scaled_RV: Any) -> Any:
    """`[R, 1]`: probability of all tokens together, over that of the most probable."""
    xp = array_namespace(scaled_RV)
    largest_R1 = xp.max(scaled_RV, axis=1, keepdims=True)
    return xp.sum(xp.exp(scaled_RV - largest_R1), axis=1, keepdims=True)


def lowest_allowed(
    first_RN: Any, mass_R1: Any, top_k_R: Any, top_p_R: Any, min_p_R: Any
) -> tuple[Any, Any]:
    """The smallest logit that may be drawn, as far as the first N tell it.

    Args:
      first_RN: the N largest of `scaled_RV`, in order.
      mass_R1: `mass_of` all V.

    Returns:
      `lowest_R1`, and `known_R`: whether it is that of all V. It is where one of the
      first N may not be drawn, since then none after it may, unless top_k reaches
      further.

    Example:
      >>> import numpy as np
      >>> logits = np.log(np.asarray([[0.5, 0.3, 0.15, 0.05]]))
      >>> k, p, least = np.asarray([0]), np.asarray([0.7]), np.asarray([0.0])
      >>> for n in (2, 3):
      ...     of = logits[:, :n], mass_of(logits)
      ...     lowest, known = lowest_allowed(*of, k, p, least)
      ...     print(np.exp(lowest).round(2).tolist(), known.tolist())
      [[0.3]] [False]
      [[0.3]] [True]
    """
    xp = array_namespace(first_RN, top_k_R, top_p_R, min_p_R)
    rank_1N = xp.arange(first_RN.shape[1], dtype=top_k_R.dtype)[None, :]
    k_R1 = top_k_R[:, None]
    share_RN = xp.exp(first_RN - first_RN[:, :1])
    ranked_RN = (k_R1 == 0) | (rank_1N < k_R1)
    share_RN = xp.where(ranked_RN, share_RN, xp.zeros_like(share_RN))
    total_R1 = xp.where(k_R1 == 0, mass_R1, xp.sum(share_RN, axis=1, keepdims=True))
    before_RN = xp.cumulative_sum(share_RN, axis=1) - share_RN
    fits_RN = (share_RN > 0) & (before_RN < top_p_R[:, None] * total_R1)
    fits_RN = (fits_RN & (share_RN >= min_p_R[:, None])) | (rank_1N == 0)
    lowest_R1 = xp.min(
        xp.where(fits_RN, first_RN, first_RN[:, :1]), axis=1, keepdims=True
    )
    return lowest_R1, ~fits_RN[:, -1] & (top_k_R <= first_RN.shape[1])
