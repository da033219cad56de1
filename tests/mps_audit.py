"""Whether what a test computes in torch could run on Apple's GPU (mps), without one.

`MpsAudit` is active during every test of the torch trainer: it fails on an operator
that has no route to mps by torch's own table of kernels, and on float64, which mps does
not have. `OneDevice` finds a tensor that was left on the CPU: the model and its batch
lie on `meta`, where any other tensor stands out.

What neither sees: kernels that a composite operator calls below the dispatcher's Python
key, dtypes that a kernel lacks, and wrong numbers; those are for the self-test on a Mac.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import torch
import torchgen
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchgen.gen import parse_native_yaml
from torchgen.model import DispatchKey

WIDE = (torch.float64, torch.complex128)

# Operators without a route that a run on mps does not meet, each with the reason.
ALIASES = {
    # The CPU's choice for scaled_dot_product_attention; on mps the same call goes to
    # _scaled_dot_product_attention_math_for_mps, or to the composite of matrix products
    # where a gradient is needed (aten/src/ATen/native/transformers/attention.cpp).
    "aten::_scaled_dot_product_flash_attention_for_cpu": (
        "aten::_scaled_dot_product_attention_math_for_mps"
    ),
    # Its backward; on mps that of matrix products and softmax.
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": (
        "aten::_softmax_backward_data"
    ),
}
# Moving a tensor from one device to another is no mixing of them.
TRANSFERS = {"aten::_to_copy", "aten::copy_"}


@functools.cache
def mps_routes() -> dict[str, str]:
    """How each ATen operator would reach mps: by its own kernel, or put together.

    The first of: a kernel of its own, that of the operator it is another form of
    (`structured_delegate`), a composite of other operators. An operator that is not in
    the result has none.
    """
    folder = Path(torchgen.__file__).parent / "packaged/ATen/native"
    parsed = parse_native_yaml(
        str(folder / "native_functions.yaml"), str(folder / "tags.yaml")
    )
    kernels = parsed.backend_indices[DispatchKey.MPS].index
    routes = {}
    for function in parsed.native_functions:
        operator = function.func.name
        composite = (
            function.has_composite_explicit_autograd_kernel
            or function.has_composite_explicit_autograd_non_functional_kernel
            or function.has_composite_implicit_autograd_kernel
        )
        if operator in kernels:
            routes[f"aten::{operator}"] = "kernel"
        elif function.structured_delegate in kernels:
            routes[f"aten::{operator}"] = "delegate"
        elif composite:
            routes[f"aten::{operator}"] = "composite"
    return routes


def route(name: str) -> str | None:
    """How an operator reaches mps (`aten::sort.stable`), through the aliases; or not."""
    return mps_routes().get(ALIASES.get(name, name))


class MpsAudit(TorchDispatchMode):
    """Raises AssertionError for an operator without a route to mps, and for float64.

    Backward passes run in the thread that asks for them and are seen like the rest.

    Attributes:
      seen: names of the operators so far.
    """

    def __init__(self, *, float64: bool = False) -> None:
        super().__init__()
        self.float64 = float64
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        if name not in self.seen and route(name) is None:
            raise AssertionError(f"{name} has no route to mps")
        self.seen.add(name)
        self._check_width(name, (args, kwargs))
        found = func(*args, **(kwargs or {}))
        self._check_width(name, found)
        return found

    def _check_width(self, name: str, tree: object) -> None:
        wide = {x.dtype for x in tensors(tree) if x.dtype in WIDE}
        if wide and not self.float64:
            raise AssertionError(f"{name} with {wide.pop()}, which mps does not have")


class OneDevice(TorchDispatchMode):
    """Raises AssertionError where an operator meets a tensor of another device.

    For a step whose parameters and batch lie on `meta`: a tensor without axes may be on
    the CPU, as torch allows beside any device, and `.to(device)` moves one. On `meta`
    there are no numbers: `nonzero` finds everything (so every row is kept), and
    `.item()`, `float(...)`, `if tensor:` fail in torch itself; a step that waits for
    the device does not run here.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        given = list(tensors((args, kwargs)))
        here = [x for x in given if x.device.type == self.device.type]
        if here and name not in TRANSFERS:
            for x in given:
                if x.ndim > 0 and x.device.type != self.device.type:
                    raise AssertionError(
                        f"{name} on {self.device} with a tensor {list(x.shape)} on "
                        f"{x.device}"
                    )
        if name == "aten::nonzero" and here and self.device.type == "meta":
            (x,) = given
            return x.new_empty((x.numel(), x.ndim), dtype=torch.int64)
        return func(*args, **(kwargs or {}))


def tensors(tree: object) -> Iterator[torch.Tensor]:
    """Every tensor in arguments or results, at any depth."""
    return (x for x in tree_leaves(tree) if isinstance(x, torch.Tensor))
