"""Whether what torch computes on a CPU could run on Apple's GPU, without having one.

Two modes see every operator that reaches a backend, those of a backward pass too:

    Audit   an operator without a route to MPS, or a number in float64
    OnMeta  a tensor made on the CPU in the midst of a step on another device

A route is a kernel for MPS, or one that is composed of other operators, as torch's own
list of operators says (`native_functions.yaml`, packaged with torchgen). A kernel that
is listed can still lack a dtype, or be wrong: for that there is the start-up self-test.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import torch
import torchgen
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode_stack,
)
from torchgen.gen import parse_native_yaml
from torchgen.model import DispatchKey

MPS = DispatchKey.MPS
WIDE = (torch.float64, torch.complex128)
# Kernels that a CPU chooses, and what MPS runs in their place. Reviewed by hand: see
# `sdp_utils` and `scaled_dot_product_attention` in ATen/native/transformers.
INSTEAD = {
    "_scaled_dot_product_flash_attention_for_cpu": "_scaled_dot_product_attention_math",
    "_scaled_dot_product_flash_attention_for_cpu_backward": (
        "_scaled_dot_product_attention_math"  # autograd of what it is composed of
    ),
}

ON_THE_HOST = ("profiler",)  # namespaces that compute nothing


class NoMps(AssertionError):
    """Something that Apple's GPU would refuse."""


@cache
def routes() -> dict[str, str]:
    """How an operator of torch gets to MPS, by name and overload; "" if it does not."""
    folder = Path(torchgen.__file__).parent / "packaged/ATen/native"
    parsed = parse_native_yaml(
        str(folder / "native_functions.yaml"), str(folder / "tags.yaml")
    )
    kernels = parsed.backend_indices[MPS].index
    found = {}
    for function in parsed.native_functions:
        names = [function.func.name, function.structured_delegate]
        if any(name in kernels for name in names):
            route = "MPS"
        elif function.has_composite_implicit_autograd_kernel:
            route = "composite implicit"
        elif function.has_composite_explicit_autograd_kernel:
            route = "composite explicit"
        elif function.has_composite_explicit_autograd_non_functional_kernel:
            route = "composite explicit"
        else:
            route = ""
        found[str(function.func.name)] = route
    return found


def name_of(operator: torch._ops.OpOverload) -> str:
    """As in `native_functions.yaml`: `mul.Tensor`, `relu`."""
    return operator.name().removeprefix("aten::")


def route_of(operator: torch._ops.OpOverload) -> str:
    """How the operator gets to MPS; "" if it does not."""
    name = name_of(operator)
    return routes().get(INSTEAD.get(name, name), "")


def _tensors(values) -> Iterator[torch.Tensor]:
    """Those of an operator's arguments; torch's own walk over trees is far slower."""
    for x in values:
        if isinstance(x, torch.Tensor):
            yield x
        elif isinstance(x, tuple | list):
            yield from _tensors(x)
        elif isinstance(x, dict):
            yield from _tensors(x.values())


class Audit(TorchDispatchMode):
    """Raises NoMps at the operator that Apple's GPU could not run.

    Attributes:
      seen: names of the operators that ran.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = name_of(operator)
        if operator.namespace in ON_THE_HOST:
            return operator(*args, **(kwargs or {}))
        if name not in self.seen and not route_of(operator):
            raise NoMps(f"{name} has no route to MPS")
        self.seen.add(name)
        out = operator(*args, **(kwargs or {}))
        if any(x.dtype in WIDE for x in _tensors((args, kwargs, out))):
            raise NoMps(f"{name} computes in float64, which MPS does not have")
        return out


class OnMeta(TorchDispatchMode):
    """Raises NoMps where a step on the `meta` device makes a tensor on the CPU.

    That is what a forgotten `device=` does: on a CPU nobody sees it, on a GPU the next
    operator fails. Where code copies a number to the device (`x.to(device)`,
    `torch.tensor(..., device=device)`), its source may lie on the CPU.
    """

    COPIES = ("_to_copy", "lift_fresh", "copy_", "detach", "alias")

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        name = name_of(operator)
        on_cpu = [x for x in _tensors((args, kwargs, out)) if x.device.type == "cpu"]
        if on_cpu and name.split(".")[0] not in self.COPIES:
            raise NoMps(f"{name} has a tensor on the CPU, {tuple(on_cpu[0].shape)}")
        return out


@contextmanager
def audited():
    """Audits whatever torch computes inside, as torch would compute it on mps.

    Inside another audit this is that one: two would look at every operator twice.

    GradScaler takes the inverse of its scale in float64 on every device but mps.
    """
    around = [x for x in _get_current_dispatch_mode_stack() if isinstance(x, Audit)]
    if around:
        yield around[-1]
        return
    unscale = torch.amp.GradScaler.unscale_

    def narrow(self, optimizer):
        with mock.patch.object(torch.Tensor, "double", lambda x: x):
            return unscale(self, optimizer)

    with mock.patch.object(torch.amp.GradScaler, "unscale_", narrow), Audit() as audit:
        yield audit
