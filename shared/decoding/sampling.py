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
    V = scaled_RV.shape[1]
    sorted_RV = xp.sort(scaled_RV, axis=1, descending=True)
    rank_V = xp.arange(V, dtype=top_k_R.dtype)
    k_R1 = xp.where(top_k_R == 0, xp.asarray(V, dtype=top_k_R.dtype), top_k_R)[:, None]
    share_RV = xp.exp(sorted_RV - sorted_RV[:, :1])
    share_RV = xp.where(rank_V[None, :] < k_R1, share_RV, xp.zeros_like(share_RV))
    total_R1 = xp.sum(share_RV, axis=1, keepdims=True)
    before_RV = xp.cumulative_sum(share_RV, axis=1) - share_RV
    fits_RV = (share_RV > 0) & (before_RV < top_p_R[:, None] * total_R1)
    fits_RV = fits_RV & (share_RV >= min_p_R[:, None])
    first_RV = rank_V[None, :] == 0
    lowest = xp.where(fits_RV | first_RV, sorted_RV, sorted_RV[:, :1])
    return scaled_RV >= xp.min(lowest, axis=1, keepdims=True)
