"""The device: Apple's GPU (mps) where there is one, else the CPU; its memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from shared.config.fields import Config
from shared.data.batches import Batch
from shared.messages import first_line
from shared.run.memory import does_not_fit
from shared.run.report import peak_of_process
from wmtp_torch_mps.precision import has_bfloat16
from wmtp_torch_mps.usable import require_usable, say_no_mps

MIB = 1024**2
# What torch says of a CPU, of mps, and of one tensor that is too large for mps.
NO_MEMORY = ("can't allocate memory", "out of memory", "Invalid buffer size")
# Rows of one product. Over more of them a linear has given gradients 14 719 times too
# large on mps, though not in every run (pytorch/pytorch#177116).
MOST_ROWS = 32_768
INDICES = ("tokens_BL", "positions_BL")  # torch looks up rows by int64


def find_device(cfg: Config) -> torch.device:
    """The device of a run; the CPU, with a line saying so, where mps is not there.

    Raises:
      ValueError: as `require_usable`, for what the device cannot multiply in, and for
        what is known to go wrong on mps.
    """
    require_usable(cfg)
    device = _find_device(cfg)
    if cfg.machine.dtype == "bfloat16":
        required = f"float32 here, as this {device} does not multiply in bfloat16"
        cfg.machine.require("dtype", has_bfloat16(device), required)
    return device


def _find_device(cfg: Config) -> torch.device:
    if cfg.machine.device == "cpu":
        return torch.device("cpu")
    if torch.backends.mps.is_available():
        _check_mps(cfg)
        return torch.device("mps")
    reason = "this torch is built without it"
    if torch.backends.mps.is_built():
        reason = "macOS gives none; it needs Apple silicon and macOS 14"
    say_no_mps(cfg, reason)
    return torch.device("cpu")


def _check_mps(cfg: Config) -> None:
    if cfg.machine.rematerialise != "none" and cfg.model.dropout > 0:
        raise ValueError(
            "machine.rematerialise must be none with dropout on mps, got model.dropout "
            f"{cfg.model.dropout}: torch draws another mask when it computes again "
            "there (pytorch/pytorch#127676)"
        )
    rows = cfg.data.batch_size * cfg.data.max_length
    if rows > MOST_ROWS:
        raise ValueError(
            f"data.batch_size * data.max_length must be at most {MOST_ROWS} on mps, "
            f"got {rows}: gradients of larger products have been wrong there (pytorch/"
            "pytorch#177116); train.accumulation makes the same step of smaller batches"
        )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with torch tensors for its NumPy arrays."""

    def tensor(array: np.ndarray) -> torch.Tensor:
        array = np.ascontiguousarray(array)
        return torch.from_numpy(array if array.flags.writeable else array.copy())

    made = batch.changed(lambda array: tensor(array).to(device))
    indices = {name: getattr(made, name).to(torch.int64) for name in INDICES}
    return replace(made, **indices)


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
        isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY)
    )


@contextmanager
def memory_told() -> Iterator[None]:
    """Where memory runs out and nothing can be halved, one line for the user.

    Raises:
      MemoryError: for torch's own error.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(does_not_fit("the run", first_line(error))) from error
