"""How fast this machine reads memory, and how much of it a step of decoding reads.

A step at batch 1 reads every weight once, and the cache; less time than that takes at
the measured rate it cannot need: the memory bound.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

SIZE = 2**30  # bytes that are read, larger than any cache
TIMES = 3  # of which the best counts


def readers() -> dict[str, Callable[[], float]]:
    """By library, a function that reads with all cores: seconds of a byte, at best."""
    size = SIZE
    numbers = np.ones(size // 4, np.float32)
    parts = np.array_split(numbers, os.cpu_count() or 1)
    threads = ThreadPoolExecutor(len(parts))

    def by_numpy() -> Any:
        return sum(threads.map(np.sum, parts))

    found: dict[str, Callable[[], Any]] = {"numpy": by_numpy}
    try:
        import torch
    except ImportError:
        pass
    else:
        tensor = torch.from_numpy(numbers)
        found["torch"] = tensor.sum
    import jax

    placed = jax.numpy.asarray(numbers)
    summed = jax.jit(lambda x: x.reshape(len(parts), -1).sum(1))
    if size // 4 % len(parts) == 0:
        found["jax"] = lambda: summed(placed).block_until_ready()
    return {name: lambda read=read: _best(read) / size for name, read in found.items()}


def _best(read: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(TIMES):
        started = time.perf_counter()
        read()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def step_bytes(model: Any, places: int) -> int:
    """Bytes that one step over one row reads: the weights of the trunk, the
    unembedding, and the keys and values of so many places.

    Args:
      model: a `Loaded` of `wmtp_jax.decoding.loaded`.
    """
    import jax

    read = {name: model.params[name] for name in ("unembed", "norm", "layers")}
    weights = sum(x.nbytes for x in jax.tree.leaves(read))
    cfg, number = model.cfg, jax.numpy.dtype(model.dtype).itemsize
    return weights + 2 * cfg.num_layers * cfg.kv_heads * cfg.H * places * number
