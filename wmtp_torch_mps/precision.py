"""The dtype of matrix products: how each device is told, and what it can do.

    float32    as torch computes
    float16    `torch.autocast`; the loss is scaled (`state.py`)
    bfloat16   on a CPU oneDNN's own mode: all arrays stay float32, the factors of a
               product are rounded to bfloat16 (AMX, AVX-512 BF16) and summed in
               float32. On mps `torch.autocast`.

Parameters, optimizer, nll, scores and weights are float32 in all three.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# A number that bfloat16 rounds to 1, and how many of its squares are added up.
ABOVE_ONE, WIDTH = 1 + 2.0**-10, 64


def rounds_products(device: torch.device, dtype: str) -> bool:
    """Whether float32 arrays are multiplied in bfloat16: on a CPU, by oneDNN."""
    return dtype == "bfloat16" and device.type == "cpu"


def computing(device: torch.device, dtype: str) -> AbstractContextManager:
    """Context in which trunk and heads multiply in the config's dtype."""
    if dtype in HALVES and not rounds_products(device, dtype):
        return torch.autocast(device.type, HALVES[dtype])
    return multiplying(device, dtype)


def multiplying(device: torch.device, dtype: str) -> AbstractContextManager:
    """The same for what autocast does not reach: backward passes, unembeddings."""
    return _rounded() if rounds_products(device, dtype) else nullcontext()


@contextmanager
def _rounded() -> Iterator[None]:
    mode = torch.backends.mkldnn.matmul
    before = mode.fp32_precision
    mode.fp32_precision = "bf16"
    try:
        yield
    finally:
        mode.fp32_precision = before


def attention_dtype(device: torch.device, dtype: str, own: torch.dtype) -> torch.dtype:
    """In which the trunk attends; `own` is that of the parameters."""
    return own if rounds_products(device, dtype) else HALVES.get(dtype, own)


def rounds_by_hand(device: torch.device, dtype: str) -> bool:
    """Whether factors are rounded to bfloat16 and then multiplied in float32.

    For logits where the device's own products of bfloat16 come out in bfloat16: at
    logits of 40 they would be a tenth of a nat off.
    """
    return dtype == "bfloat16" and not rounds_products(device, dtype)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16, found by letting it."""
    try:
        x = torch.full((WIDTH, WIDTH), ABOVE_ONE, device=device)
        with computing(device, "bfloat16"):
            return float((x @ x)[0, 0]) == WIDTH
    except (RuntimeError, TypeError):  # macOS 13 has no such numbers on mps
        return False
