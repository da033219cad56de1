"""The device: Apple's GPU (mps) where there is one, else the CPU; its memory."""

import logging
from dataclasses import fields

import numpy as np
import torch

from shared.backend import require_usable
from shared.batches import Batch
from shared.config import Config
from shared.report import peak_of_process

log = logging.getLogger("wmtp")
MIB = 1024**2
# Of what a config can name.
USABLE = {
    "device": ("auto", "cpu", "mps"),
    "dtype": ("float32", "float16"),
    "attention": ("auto", "eager", "sdpa"),
}
INDICES = ("tokens_BL", "positions_BL")  # torch looks up rows by int64


def find_device(cfg: Config) -> torch.device:
    """The device of a run; the CPU, with a line saying so, where mps is not there.

    Raises:
      ValueError: for what only JAX computes in, and dropout that transformers' model of
        the family does not have.
    """
    require_usable(cfg, USABLE, "wmtp_torch_mps")
    if cfg.model.dropout > 0 and cfg.model.is_rotary:
        raise ValueError(
            f"model.dropout must be 0 for a {cfg.model.family} in wmtp_torch_mps, got "
            f"{cfg.model.dropout}"
        )
    if cfg.machine.device == "cpu":
        return torch.device("cpu")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    reason = "this torch is built without it"
    if torch.backends.mps.is_built():
        reason = "macOS gives none; it needs Apple silicon and macOS 14"
    say = log.warning if cfg.machine.device == "mps" else log.info
    say("device: cpu, as there is no Apple GPU (mps) here: %s", reason)
    return torch.device("cpu")


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with torch tensors for its NumPy arrays."""
    arrays = {f.name: getattr(batch, f.name) for f in fields(Batch)}
    documents = arrays.pop("num_documents")
    tensors = {}
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        tensors[name] = tensor.to(device, torch.int64 if name in INDICES else None)
    return Batch(**tensors, num_documents=documents)


def memory_in_use(device: torch.device) -> dict[str, float]:
    """MiB that tensors take, and that the driver has given; nothing on a CPU."""
    if device.type != "mps":
        return {}
    return {
        "memory_allocated_mib": torch.mps.current_allocated_memory() / MIB,
        "memory_driver_mib": torch.mps.driver_allocated_memory() / MIB,
    }


def peak_memory(device: torch.device) -> int:
    """Bytes: what the driver has given, or what this process held at most on a CPU."""
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return peak_of_process()


def empty_cache(device: torch.device, step: int, every: int) -> None:
    """Gives cached memory back every so many steps; mps keeps what it once had."""
    if device.type == "mps" and every and step % every == 0:
        torch.mps.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an operation failed for want of memory, on any device."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in text or "can't allocate memory" in text)
    )
