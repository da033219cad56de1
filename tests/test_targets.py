"""Targets and their mask against the loops of the oracle, on four array libraries."""

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.targets import shift_targets, target_mask
from tests import oracle


@st.composite
def rows(draw):
    """(tokens, document, target) of random packed rows with padding anywhere."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tokens_BL = rng.integers(0, 50, shape)
    document_BL = np.sort(rng.integers(0, 4, shape), axis=1)
    document_BL = np.roll(document_BL, draw(st.integers(0, shape[1])), axis=1)
    target_BL = rng.random(shape) < draw(st.sampled_from([0.0, 0.7, 1.0]))
    return tokens_BL, document_BL, target_BL


def both(asarray, arrays, num_heads):
    tokens, document, target = map(asarray, arrays)
    return (
        shift_targets(tokens, num_heads=num_heads),
        target_mask(document, target, num_heads=num_heads),
    )


@pytest.mark.parametrize("asarray", [np.asarray, array_api_strict.asarray])
@given(rows(), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_equal_the_oracle(asarray, arrays, num_heads):
    expected = oracle.targets_and_mask(*arrays, num_heads)
    for found, right in zip(both(asarray, arrays, num_heads), expected, strict=True):
        np.testing.assert_array_equal(np.asarray(found), right)


FIXED = (
    np.array([[5, 6, 7, 8, 9, 3, 0], [1, 2, 3, 4, 5, 6, 7]], np.int32),
    np.array([[1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1]], np.int32),
    np.array([[0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1]], bool),
)


@pytest.mark.parametrize("num_heads", [1, 3, 9])
def test_equal_the_oracle_under_jit(num_heads):
    jax = pytest.importorskip("jax")
    jitted = jax.jit(lambda *arrays: both(jax.numpy.asarray, arrays, num_heads))
    expected = oracle.targets_and_mask(*FIXED, num_heads)
    for found, right in zip(jitted(*FIXED), expected, strict=True):
        np.testing.assert_array_equal(np.asarray(found), right)
        assert found.dtype in (np.int32, np.bool_)


@pytest.mark.parametrize("num_heads", [1, 3, 9])
def test_equal_the_oracle_on_torch(num_heads):
    torch = pytest.importorskip("torch")
    expected = oracle.targets_and_mask(*FIXED, num_heads)
    found = both(torch.asarray, FIXED, num_heads)
    assert [x.dtype for x in found] == [torch.int32, torch.bool]
    for x, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x.numpy(), right)


def test_device_is_kept():
    device = array_api_strict.Device("device1")
    found = both(lambda x: array_api_strict.asarray(x, device=device), FIXED, 3)
    assert all(x.device == device for x in found)


def test_a_target_is_never_in_another_document_or_in_padding():
    mask = target_mask(FIXED[1], np.ones_like(FIXED[2]), num_heads=3)
    assert mask[0].sum(axis=0).tolist() == [4, 2, 0]
    assert not mask[0, 6].any()


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_heads must be >= 1, got 0"):
        shift_targets(FIXED[0], num_heads=0)
    with pytest.raises(ValueError, match="num_heads must be >= 1, got 0"):
        target_mask(FIXED[1], FIXED[2], num_heads=0)
    with pytest.raises(ValueError, match="one shape"):
        target_mask(FIXED[1], FIXED[2][:, 1:], num_heads=1)
