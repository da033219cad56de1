"""Where the value head starts: the best linear critic, in closed form.

Ridge regression of the fixed returns on the trunk's states, each standardised over the
training split; the penalty is chosen by the error on validation:

    x = (state - mean) / deviation
    weight = (X^T X / N + penalty I)^-1 X^T (return - mean return) / N

Source: Hoerl and Kennard, "Ridge regression", 1970. On the host, in float64: thousands
of positions at a time, so that memory holds D x D numbers and never N x D.

Axes: N positions that values are read from, D width, F = D // 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shared.critic.states import States
from shared.data.packing import START, generator
from shared.run.validation import value_errors

# Of the largest no slope is left: the mean of the returns alone.
PENALTIES = (*(10.0**power for power in np.arange(-4, 2.1, 0.5)), np.inf)
CHUNK = 8192
SMALLEST_DEVIATION = 1e-6


@dataclass(frozen=True)
class LinearFit:
    """`value = (state - mean) / deviation . weight + bias`; float64.

    Attributes:
      explained_variance: on validation.
    """

    mean_D: np.ndarray
    deviation_D: np.ndarray
    weight_D: np.ndarray
    bias: float
    explained_variance: float


def fit_linear(train: States, validation: States) -> LinearFit:
    """The ridge regression whose penalty does best on validation."""
    mean_D, deviation_D = _moments(train)
    centre = float(np.mean(train.return_N, dtype=np.float64))
    D, N = len(mean_D), len(train.return_N)
    product_DD, with_return_D = np.zeros((D, D)), np.zeros(D)
    for x_MD, return_M in _chunks(train):
        x_MD = (x_MD - mean_D) / deviation_D
        product_DD += x_MD.T @ x_MD / N
        with_return_D += x_MD.T @ (return_M - centre) / N
    eigenvalue_D, basis_DD = np.linalg.eigh(product_DD)
    turned_D = basis_DD.T @ with_return_D
    weight_PD = np.stack(
        [basis_DD @ (turned_D / (eigenvalue_D.clip(0) + p)) for p in PENALTIES]
    )
    value_PN = np.concatenate(
        [
            weight_PD @ ((x_MD - mean_D) / deviation_D).T + centre
            for x_MD, _ in _chunks(validation)
        ],
        axis=1,
    )
    measured = [value_errors(value_N, validation.return_N) for value_N in value_PN]
    best = min(range(len(PENALTIES)), key=lambda p: measured[p][0])
    return LinearFit(mean_D, deviation_D, weight_PD[best], centre, measured[best][1])


def start_head(fit: LinearFit, seed: int) -> dict[str, np.ndarray]:
    """A value head that says what the fit says, the same for either backend.

    A ReLU's two sides make a line, `u = relu(u) - relu(-u)`: so two of the F units are
    the fit, and the others are random directions that say nothing at first.

    Returns:
      `mean` and `deviation` `[D]`, `inner` `[D, F]`, `inner_bias` and `outer` `[F]`,
      `outer_bias` `[]`; float32.
    """
    D = len(fit.mean_D)
    F = max(1, D // 2)
    random = generator(seed, 0, START)
    inner_DF = random.standard_normal((D, F), np.float32) * np.float32(D**-0.5)
    outer_F = np.zeros(F, np.float32)
    slope = float(np.linalg.norm(fit.weight_D))
    if slope > 0 and F > 1:
        inner_DF[:, 0] = fit.weight_D / slope
        inner_DF[:, 1] = -inner_DF[:, 0]
        outer_F[:2] = slope, -slope
    return {
        "mean": fit.mean_D.astype(np.float32),
        "deviation": fit.deviation_D.astype(np.float32),
        "inner": inner_DF,
        "inner_bias": np.zeros(F, np.float32),
        "outer": outer_F,
        "outer_bias": np.array(fit.bias, np.float32),
    }


def _chunks(states: States) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    state_ND, return_N = states.state_ND, states.return_N
    for start in range(0, len(return_N), CHUNK):
        part = slice(start, start + CHUNK)
        yield state_ND[part].astype(np.float64), return_N[part].astype(np.float64)


def _moments(states: States) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each of the D numbers; 1 for one that does not vary."""
    N = len(states.return_N)
    mean_D = sum(x_MD.sum(0) for x_MD, _ in _chunks(states)) / N
    square_D = sum(((x_MD - mean_D) ** 2).sum(0) for x_MD, _ in _chunks(states)) / N
    deviation_D = np.sqrt(square_D)
    return mean_D, np.where(deviation_D < SMALLEST_DEVIATION, 1.0, deviation_D)
