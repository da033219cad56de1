"""Attention of the torch trainer without an array of `[L, L]`, by both of its ways."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.long_rows import SHARED, H, case, documents, right
from tests.minis import gap
from wmtp_torch_mps import block_attention
from wmtp_torch_mps.block_attention import Documents, attend, find_documents

CLOSE = {"float32": 2e-6, "float64": 1e-14, "bfloat16": 2e-2, "float16": 2e-3}
WAYS = ("a document at a time", "in blocks")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Five, the last of them ragged, in a row of 37."""
    monkeypatch.setattr(block_attention, "BLOCK", 8)


def found(document_BL, way) -> Documents:
    """Blocks are what mps computes, and a CPU that rounds products."""
    made = find_documents(torch.from_numpy(document_BL), "float32")
    return replace(made, rounded=way == "in blocks")


def pull_back(given, way, dtype=None):
    """`(out, d_q, d_k, d_v)`, the answer without what stands in padding."""
    q, k, v, d_out = (
        torch.from_numpy(np.moveaxis(x, 2, 1).copy()).requires_grad_()
        for x in given[:4]
    )
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        out = attend(q, k, v, found(given.document_BL, way), H**-0.5)
    out.backward(d_out.to(out.dtype))
    kept = torch.from_numpy(given.document_BL > 0)[:, None, :, None]
    arrays = ((out * kept).detach().float() if dtype else (out * kept).detach(),)
    arrays += q.grad, k.grad, v.grad
    return [np.moveaxis(x.numpy(), 1, 2) for x in arrays]


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("float64", marks=pytest.mark.unaudited)]
)
@pytest.mark.parametrize("heads", SHARED)
@pytest.mark.parametrize("way", WAYS)
def test_it_equals_the_whole(way, heads, dtype):
    given = case(*SHARED[heads], dtype=dtype)
    for ours, theirs in zip(pull_back(given, way), right(given), strict=True):
        assert gap(ours, theirs) < CLOSE[dtype]


@pytest.mark.parametrize("block", [37, 1000])
def test_a_row_may_be_one_block(block, monkeypatch):
    monkeypatch.setattr(block_attention, "BLOCK", block)
    given = case(2, 1)
    for ours, theirs in zip(pull_back(given, WAYS[1]), right(given), strict=True):
        assert gap(ours, theirs) < CLOSE["float32"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_autocast_rounds_what_is_multiplied(dtype):
    """As on mps: the backward pass runs outside of it, in the same dtype."""
    given = case(4, 2)
    halves = pull_back(given, WAYS[1], getattr(torch, dtype))
    for ours, theirs in zip(halves, right(given), strict=True):
        assert 1e-5 < gap(ours, theirs) < CLOSE[dtype]


@pytest.mark.parametrize("way", WAYS)
def test_keys_of_other_documents_are_not_read(way):
    """A number that is not finite spreads wherever it is multiplied, even by 0."""
    given = case(2, 1, rows=((8, 29), (9, 28)))
    given.k_BLMH[:, :8], given.v_BLMH[:, :8] = np.nan, np.nan  # the first block
    out_BLNH = pull_back(given, way)[0]
    assert np.isfinite(out_BLNH[:, 16:]).all() and np.isnan(out_BLNH[:, :8]).all()


class Largest(TorchDispatchMode):
    """The most numbers that an array had, made by any operator."""

    most = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        arrays = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.most = max([self.most, *(x.numel() for x in arrays)])
        return out


def largest(length, way):
    with Largest() as seen:
        pull_back(case(2, 1, rows=((length,),), length=length), way)
    return seen.most


@pytest.mark.parametrize("way", WAYS)
def test_no_array_grows_with_the_square_of_the_row(way, monkeypatch):
    monkeypatch.setattr(block_attention, "BLOCK", 64)
    assert largest(512, way) <= 2 * max(largest(256, way), 2 * 64 * 64)


def test_padding_and_documents_of_one_token_are_told_apart():
    made = find_documents(torch.from_numpy(documents(((2, 1, 1),), 6)), "float32")
    assert made.spans == [[(0, 2), (2, 3), (3, 4)]]
    assert made.start_BL.tolist() == [[0, 0, 2, 3, 4, 5]]
