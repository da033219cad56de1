"""The start-up self-test: one batch on the device against the same on the CPU.

Apple's GPU has given a right loss with wrong gradients (pytorch/pytorch#177116: by a
factor of 14 719, and not in every run), so the loss alone says nothing. Compared are
all tensors of one batch at the run's own shapes, twice, and a few operations that have
been wrong before.
"""

import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from shared.messages import first_line
from wmtp_torch_mps.device import is_out_of_memory

log = logging.getLogger("wmtp")

Named = Mapping[str, Tensor]
Compute = Callable[[torch.device], Named]

GRADIENT = "gradient of "
RUNS = 2
# Largest difference that passes, over the tensor's largest number: for values, for
# gradients. Another order of summation gives 1e-6 to 1e-4 in float32; the faults that
# are known give 0.1 to 1e4. A gradient sums over all rows, and so gets more. bfloat16
# itself takes up to 8e-3 and, where it decides which tokens are left out, 0.1.
TOLERANCES = {"float32": (1e-3, 1e-2), "float16": (3e-2, 0.2), "bfloat16": (0.1, 0.5)}
# A gradient that is 0 but for rounding, as that of a bias under a softmax, is measured
# against this share of the largest gradient.
SMALLEST_SCALE = 1e-4


class DeviceFault(FloatingPointError):
    """The device computes something else than the CPU; one line, for the user."""


def self_test(
    compute: Compute,
    device: torch.device,
    *,
    probes: Mapping[str, Compute] | None = None,
    dtype: str = "float32",
    reference: torch.device = torch.device("cpu"),  # noqa: B008
) -> dict[str, float]:
    """Holds what a device computes against the CPU, before anything is trained on it.

        difference = max |on the device - on the CPU| / max |on the CPU|

    Args:
      compute: one batch of the run on a device -> `loss`, `logits`, `gradient of NAME`,
        ... as float32 tensors on the CPU; the same numbers each time it is called.
      probes: more of the same kind, by what they compute (`probes.py`).
      dtype: of the computation on the device; on the CPU it is float32.

    Returns:
      The difference of every tensor, of the worse run.

    Raises:
      DeviceFault: naming the worst tensor that differs, or is not finite, or differs in
        one run only.
      FloatingPointError: if the CPU's own numbers are not finite.
    """
    started = time.perf_counter()
    differences: dict[str, float] = {}
    for what, run in {"": compute, **(probes or {})}.items():
        expected = run(reference)
        for name, tensor in expected.items():
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(f"{name} is not finite on the {reference}")
        for number in range(1, RUNS + 1):
            try:
                found = run(device)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                first = first_line(error)
                raise _fault(
                    device, f"cannot run {what or 'a batch'}: {first}"
                ) from error
            here = dict(_differences(found, expected))
            _check(here, found, what, number, dtype, device)
            for name, size in here.items():
                name = f"{what}: {name}" if what else name
                differences[name] = max(size, differences.get(name, 0.0))
    worst = max(differences, key=differences.__getitem__)
    log.info(
        "self-test: %d tensors are the same on %s and %s, within %.1e (%s), %.1f s",
        len(differences),
        device,
        reference,
        differences[worst],
        worst,
        time.perf_counter() - started,
    )
    return differences


def _differences(found: Named, expected: Named) -> Iterator[tuple[str, float]]:
    """Name and difference of each tensor; infinite for a number that is not finite."""
    largest = {name: _largest(tensor) for name, tensor in expected.items()}
    gradients = [size for name, size in largest.items() if name.startswith(GRADIENT)]
    smallest = SMALLEST_SCALE * max(gradients, default=0.0)
    for name, right in expected.items():
        scale = largest[name]
        if name.startswith(GRADIENT):
            scale = max(scale, smallest)
        size = _largest(found[name].sub(right)) if right.numel() else 0.0
        yield name, size / scale if scale else (size and float("inf"))


def _largest(tensor: Tensor) -> float:
    """Largest size of a number; infinite if one is not a number."""
    if not tensor.numel():
        return 0.0
    size = float(tensor.abs().max())  # NaN wins in max
    return size if size == size else float("inf")


def _check(
    differences: dict[str, float],
    found: Named,
    what: str,
    number: int,
    dtype: str,
    device: torch.device,
) -> None:
    """Raises DeviceFault for the tensor that is furthest beyond its tolerance."""
    value, gradient = TOLERANCES[dtype]
    allowed = {n: gradient if n.startswith(GRADIENT) else value for n in differences}
    wrong = [name for name, size in differences.items() if size > allowed[name]]
    if not wrong:
        return
    worst = max(wrong, key=lambda name: differences[name] / allowed[name])
    where = f"{what}: {worst}" if what else worst
    said = f"differs from the CPU by {differences[worst]:.1e} of its largest number"
    if not torch.isfinite(found[worst].contiguous()).all():
        said = "has numbers that are not finite"
    again = "" if number == 1 else ", though the same was right in the run before"
    others = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    raise _fault(
        device,
        f"{where} {said} (at most {allowed[worst]:.0e}) in run {number} of {RUNS}"
        f"{again}{others}",
    )


def _fault(device: torch.device, said: str) -> DeviceFault:
    system = platform.mac_ver()[0]
    versions = f"torch {torch.__version__}" + (f", macOS {system}" if system else "")
    return DeviceFault(
        f"the device {device} must compute what the CPU does, got: {said} ({versions}; "
        "take --device cpu or another torch, or trust it with --machine.no-self-test)"
    )
