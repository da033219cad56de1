"""Which tokens may be drawn: loops in plain Python, and `transformers`."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from shared.decoding.requests import Sampling
from shared.decoding.sampling import allowed

# Steps that float32 has exactly, ties among them.
LOGITS = st.lists(st.integers(-24, 24).map(lambda x: x / 4), min_size=1, max_size=12)


def kept_by_hand(logits, top_k, top_p, min_p) -> list[bool]:
    order = sorted(logits, reverse=True)
    candidates = order[:top_k] if top_k else order
    share = [math.exp(x - order[0]) for x in candidates]
    lowest, before = order[0], 0.0
    for value, part in zip(candidates, share, strict=True):
        if before < top_p * sum(share) and part >= min_p:
            lowest = value
        before += part
    return [x >= lowest for x in logits]


@settings(deadline=None, max_examples=150)
@given(
    LOGITS,
    st.integers(0, 13),
    st.sampled_from([1.0, 0.93, 0.61, 0.27, 0.013]),
    st.sampled_from([0.0, 0.011, 0.17, 0.73]),
)
def test_loops_say_the_same(logits, top_k, top_p, min_p):
    limits = np.array([top_k]), np.array([top_p]), np.array([min_p])
    found = allowed(np.array([logits]), *limits)[0].tolist()
    assert found == kept_by_hand(logits, top_k, top_p, min_p)
    assert found[int(np.argmax(logits))]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_it_is_what_transformers_leaves(temperature):
    rng = np.random.default_rng(0)
    for top_k, top_p, min_p in (
        *((0, 1.0, 0.0), (5, 1.0, 0.0), (0, 0.9, 0.0), (0, 1.0, 0.1)),
        *((20, 0.8, 0.0), (7, 0.95, 0.05), (50, 0.5, 0.3), (1, 0.2, 0.9)),
    ):
        logits_RV = rng.normal(0, 2, (4, 61)).astype(np.float32)
        warpers = [TemperatureLogitsWarper(temperature)]
        warpers += [TopKLogitsWarper(top_k)] if top_k else []
        warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
        warpers += [MinPLogitsWarper(min_p)] if min_p else []
        left = LogitsProcessorList(warpers)(None, torch.tensor(logits_RV)).numpy()
        limits = (np.full(4, x) for x in (top_k, top_p, min_p))
        found = allowed(logits_RV / temperature, *limits)
        np.testing.assert_array_equal(found, np.isfinite(left))


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"max_tokens": -1}, "max_tokens must be >= 0, got -1"),
        ({"temperature": float("nan")}, "temperature must be finite, got nan"),
        ({"temperature": -0.1}, "temperature must be >= 0, got -0.1"),
        ({"top_p": 0.0}, "top_p must be in (0, 1], got 0.0"),
        ({"min_p": 1.0}, "min_p must be in [0, 1), got 1.0"),
        ({"top_k": -1}, "top_k must be >= 0, got -1"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"stop": ("a", "")}, "stop must be texts that are not empty, got ('a', '')"),
    ],
)
def test_a_setting_out_of_range_is_one_line(wrong, said):
    with pytest.raises(ValueError) as caught:
        Sampling(**wrong)
    assert said in str(caught.value) and "\n" not in str(caught.value)
