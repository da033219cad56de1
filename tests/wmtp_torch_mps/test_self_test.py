"""The start-up self-test passes a healthy device and stops a faulty one.

A faulty device is a CPU under a dispatch mode that gets one operator wrong, as Apple's
GPU has got some wrong: in the backward pass alone, or not in every run.
"""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shared.run.inputs import read_inputs
from tests.minis import config, first
from tests.mps_audit import name_of
from tests.torch_models import start, torch_model
from wmtp_torch_mps import self_test, self_test_batch, train
from wmtp_torch_mps.probes import probes_of

CPU = torch.device("cpu")


class Faulty(TorchDispatchMode):
    """Changes what an operator gives: `wrong(out, *args)` in place of `out`.

    Attributes:
      times: how often it did.
    """

    def __init__(self, name, wrong):
        super().__init__()
        self.name, self.wrong, self.times = name, wrong, 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        if name_of(operator) != self.name:
            return out
        changed = self.wrong(out, *args)
        self.times += changed is not out
        return changed


def on_call(number, fault, compute):
    """`compute`, which runs into the fault at that call; the first is the CPU's."""
    calls = []

    def run(device):
        calls.append(device)
        if len(calls) != number:
            return compute(device)
        with fault:
            return compute(device)

    return run


def numbers(device=None):
    """What the self-test compares, of the parity tests' batch."""
    cfg = config("critic", "linear", "default")
    model = torch_model(cfg, start("linear", True))
    return self_test_batch.batch_numbers(model, first("packed", "float32"), CPU)


def test_it_passes_a_healthy_device():
    assert max(self_test.self_test(numbers, CPU).values()) == 0


def backward_of_a_linear(out, gradient, other):
    """Wrong where rows are summed up, as a weight's gradient is: the loss stays right.

    (pytorch/pytorch#177116 gave gradients 14 719 times too large.)
    """
    transposed = gradient.stride(0) == 1 < gradient.stride(1)
    return out * 14_719 if transposed else out


@pytest.mark.parametrize("run", [1, 2])
def test_it_stops_at_a_wrong_backward_pass_of_a_linear(run):
    fault = Faulty("mm", backward_of_a_linear)
    with pytest.raises(self_test.DeviceFault) as caught:
        self_test.self_test(on_call(run + 1, fault, numbers), CPU)
    assert fault.times
    said = str(caught.value)
    assert "gradient of " in said and f"run {run} of 2" in said and "\n" not in said
    assert ("right in the run before" in said) == (run == 2)


def test_the_loss_of_that_device_is_right():
    """Which is why the loss alone says nothing."""
    with Faulty("mm", backward_of_a_linear):
        found = numbers()
    right = numbers()
    assert torch.equal(found["loss"], right["loss"])
    assert torch.equal(found["logits"], right["logits"])


def test_it_names_the_tensor_of_a_number_that_is_none():
    fault = Faulty("embedding_dense_backward", lambda out, *_: out * float("nan"))
    with pytest.raises(self_test.DeviceFault, match="not finite") as caught:
        self_test.self_test(on_call(2, fault, numbers), CPU)
    assert "wte.weight" in str(caught.value) or "wpe.weight" in str(caught.value)


def last_of_equals(out, x, *_):
    """A sort that is not stable: indices of ties the other way round."""
    return out[0], torch.sort(x.flip(-1), stable=True, dim=-1)[1].sub(
        x.shape[-1] - 1
    ).neg()


def moved_further(out, parameters, *_):
    """A fused update that changes its parameters once more."""
    for x in parameters:
        x.mul_(0.9)
    return ()


PROBED = {
    "unembedding": ("mm", backward_of_a_linear),
    "activations": ("silu_backward", lambda out, *_: out.flip(0)),
    "views": ("where.self", lambda out, *_: out.roll(1, 0)),
    "weights": ("sort.stable", last_of_equals),
    "updates": ("_fused_adamw_", moved_further),
    "linear": ("mm", lambda out, *_: out * 2),
}


def probes():
    """By the first word of their names."""
    cfg = config("critic", "linear", "default")
    return {n.split(" over")[0]: p for n, p in probes_of(cfg).items()}


@pytest.mark.parametrize("name", PROBED)
def test_every_probe_catches_a_fault_of_its_kind(name):
    wrong, probe = PROBED[name], probes()[name]
    fault = Faulty(*wrong)
    self_test.self_test(numbers, CPU, probes={name: probe})
    with pytest.raises(self_test.DeviceFault, match=name):
        self_test.self_test(numbers, CPU, probes={name: on_call(2, fault, probe)})
    assert fault.times


class Mps:
    """A device that calls itself mps."""

    type = "mps"


def test_it_runs_the_very_step_and_the_probes(tmp_path, monkeypatch):
    """On a device that calls itself mps, it comes before anything else is computed."""
    calls = []
    monkeypatch.setattr(
        self_test_batch, "self_test", lambda *a, **k: calls.append((a, k))
    )
    cfg = config("critic", "linear", "default")
    inputs = read_inputs(cfg, train.NAME)
    assert self_test_batch.test_device(inputs, Mps()) == 1
    ((compute, _), options) = calls[0]
    found = compute(CPU)
    assert torch.isfinite(found["loss"])
    assert all(x.any() for n, x in found.items() if ".c_attn.weight" in n)
    for name, probe in options["probes"].items():
        right, again = (probe(CPU) for _ in range(2))
        assert right, name
        assert all(torch.equal(right[n], again[n]) for n in right), name
    self_test_batch.test_device(inputs, CPU)  # a CPU: nothing to compare
    quiet = replace(cfg, machine=replace(cfg.machine, self_test=False))
    self_test_batch.test_device(replace(inputs, cfg=quiet), Mps())
    assert len(calls) == 1
