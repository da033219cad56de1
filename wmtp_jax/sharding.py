"""Devices: the mesh of a run, and where the programs compiled for it are kept.

What of a run lies on which device is `layout.py`'s to say.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from shared.config.fields import Config
from shared.messages import first_line
from shared.tracking.flops import peak_flops
from wmtp_jax import processes
from wmtp_jax import pytrees as pytrees
from wmtp_jax.layout import AXES, ROWS, row_parts

log = logging.getLogger("wmtp")
# Of what a config can name.
USABLE = {
    "dtype": ("float32", "bfloat16"),
    "attention": ("auto", "xla", "cudnn", "blocks"),
}


def find_mesh(cfg: Config) -> Mesh:
    """The devices of a run; what JAX cannot do is refused, mps becomes the CPU.

    Raises:
      ValueError: as `make_mesh`, and for what only torch computes in.
    """
    machine = cfg.machine
    cfg.machine.require_usable(USABLE, "wmtp_jax")
    if machine.device == "mps":
        log.warning("machine.device mps is torch's: wmtp_jax takes the CPU here")
        cfg = replace(cfg, machine=replace(machine, device="cpu"))
    if machine.deterministic:  # read when JAX first looks for devices
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true"
    return make_mesh(cfg)


def kind_of(mesh: Mesh) -> str:
    """Of its devices, as JAX calls it: `cpu`, `gpu`."""
    return mesh.devices.flat[0].platform


def peak_of(mesh: Mesh, cfg: Config) -> float | None:
    """FLOPs a second of all devices at their best, if that is known."""
    kind = mesh.devices.flat[0].device_kind
    return peak_flops(kind, cfg.machine.dtype, mesh.size)


def make_mesh(cfg: Config) -> Mesh:
    """All devices of the chosen kind: `data` is what `fsdp` and `tensor` leave.

    Raises:
      ValueError: if there is no such device, they cannot be shared out as asked, or
        rows cannot be split evenly.
    """
    # On a CPU a call returns when it is computed: one that waits for its turn would
    # hold its memory already, and nothing runs faster for it. Read with the devices.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    kind, everywhere = cfg.machine.device, jax.devices()
    try:
        devices = everywhere if kind == "auto" else jax.devices(kind)
    except RuntimeError:
        found = ", ".join(sorted({device.platform for device in everywhere}))
        seen = f"a device that JAX sees here ({found})"
        cfg.machine.require("device", False, seen)
    if cfg.machine.attention == "cudnn":
        _require_cudnn(cfg, devices[0].platform)
    shared, count = cfg.machine.fsdp * cfg.machine.tensor, len(devices)
    of_tensor = f"times machine.tensor = {cfg.machine.tensor}"
    must = f"a divisor of the {count} devices, {of_tensor}"
    cfg.machine.require("fsdp", count % shared == 0, must)
    mesh = mesh_of(devices, fsdp=cfg.machine.fsdp, tensor=cfg.machine.tensor)
    parts = row_parts(mesh)
    must = f"a multiple of the {parts} devices that share its rows"
    cfg.data.require("batch_size", cfg.data.batch_size % parts == 0, must)
    return mesh


def mesh_of(devices: Sequence[Any], *, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """These devices, `fsdp` x `tensor` of them for each part of `data`."""
    sizes = len(devices) // (fsdp * tensor), fsdp, tensor
    kinds = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(sizes, AXES, kinds, devices=devices)


@contextmanager
def jax_told() -> Iterator[None]:
    """What JAX says of devices and memory, in one line for the user.

    Raises:
      ValueError: if there is no device of the kind that its variable wants.
      MemoryError: where memory runs out.
    """
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise MemoryError(
                f"the run must fit into memory, got: {first_line(error)} (less "
                "data.batch_size with more train.accumulation, less data.max_length, "
                "a smaller model, or machine.rematerialise)"
            ) from error
        if _has_devices():
            raise
        raise ValueError(
            "JAX_PLATFORMS must name devices that JAX sees here, got "
            f"{jax.config.jax_platforms!r}: {first_line(error)}"
        ) from error


def _has_devices() -> bool:
    """Whether JAX finds any; of a platform that is not there it says no more."""
    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):
        return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether JAX failed for want of memory, on any device."""
    words = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
    is_jax = isinstance(error, jax.errors.JaxRuntimeError)
    return is_jax and any(word in str(error) for word in words)


def _require_cudnn(cfg: Config, platform: str) -> None:
    """What cuDNN's attention asks for, said before JAX fails on it."""
    H, length = cfg.model.H, cfg.data.max_length
    for holds, required, got in (
        (platform == "gpu", "run on a GPU", f"the device {platform!r}"),
        (H % 8 == 0 and H <= 128, "have heads of a width 8, 16, ... or 128", H),
        # Rows of evaluation are a quarter or half as long.
        (length % 8 == 0, "have data.max_length as a multiple of 8", length),
    ):
        if not holds:
            raise ValueError(f"machine.attention cudnn must {required}, got {got}")


def keep_compiled(cfg: Config) -> None:
    """Lets the next start find this one's compiled programs, if the config says so."""
    if cfg.machine.compilation_cache:
        keep_programs(Path(cfg.output_dir) / "compiled")


def keep_programs(folder: Path) -> None:
    """Keeps compiled programs in a folder, and finds them there.

    A folder that JAX was told of by its own environment variable goes before ours.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))
        # Also of what compiles in less than JAX's second: together it is three.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh, *, micro_batches: bool) -> NamedSharding:
    """Rows over data x fsdp: axis 1 of `[A, B, L]`, axis 0 of `[B, L]`."""
    if micro_batches:
        return NamedSharding(mesh, PartitionSpec(None, ROWS))
    return NamedSharding(mesh, PartitionSpec(ROWS))


def jit_pass(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """A function of parameters and rows `[B, L]`, jitted; its answer is everywhere.

    The parameters stay where they are.
    """
    whole, rows = replicated(mesh), split_rows(mesh, micro_batches=False)
    jitted = jax.jit(function, in_shardings=(None, rows), out_shardings=whole)
    if jax.process_count() == 1:
        return jitted

    def passed(params: Any, batch: Any) -> Any:
        return jitted(params, processes.spread(batch, rows))

    return passed
