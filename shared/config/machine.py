"""The group of the config that says what a run runs on."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from shared.config.ranges import Checked

Device = Literal["auto", "cpu", "gpu", "mps"]
Remat = Literal["none", "layer"]
# Positions of a row from which attention in blocks pays: benchmarks/README.md.
BLOCKS_FROM = 512


@dataclass(frozen=True, kw_only=True)
class MachineConfig(Checked):
    """What it runs on."""

    device: Annotated[Device, arg(aliases=["--device"])] = "auto"
    """`auto` takes the GPU (JAX) or the Mac's mps (torch) where there is one"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of matrix products (float16: torch alone); all that is kept stays float32"""
    first_moment: Literal["float32", "bfloat16"] = "float32"
    """JAX: what the optimizer keeps its first moment in; half the memory, rounded"""
    attention: Literal["auto", "xla", "cudnn", "eager", "sdpa", "blocks"] = "auto"
    """`auto`: cuDNN's kernel (JAX on a GPU in bfloat16), else `blocks` from 512
    positions on, whose memory grows with L and not with L squared; below XLA, or
    torch's sdpa (eager on a CPU in bfloat16)"""
    rematerialise: Remat = "none"
    """`layer`: compute each layer again in the backward pass: less memory, more time"""
    compilation_cache: bool = True
    """keep compiled programs in output_dir/compiled for the next start"""
    fsdp: Annotated[int, ">= 1"] = 1
    """JAX: devices that share one copy of parameters and moments, of each a piece"""
    tensor: Annotated[int, ">= 1"] = 1
    """JAX: devices that share the products of the same rows: pieces of the vocabulary,
    attention heads, inner widths"""
    deterministic: bool = False
    """GPU: only operations that give equal bits every time (slower)"""
    self_test: Annotated[bool, arg(aliases=["--self-test"])] = True
    """mps: first hold one batch's loss and gradients against the CPU's"""
    empty_cache_every: Annotated[int, ">= 0"] = 50
    """mps: steps between giving cached memory back; 0 never does"""

    def require_usable(self, usable: dict[str, tuple[str, ...]], backend: str) -> None:
        """Refuses the first field that a backend cannot do."""
        for name, values in usable.items():
            known = " or ".join(filter(None, (", ".join(values[:-1]), values[-1])))
            holds = getattr(self, name) in values
            self.require(name, holds, f"{known} in {backend}")
