"""Products in bfloat16: rounded as they must be, where they must be, or refused."""

import pytest
import torch

from tests.refused import error_line
from wmtp_torch_mps import device, precision, unembed
from wmtp_torch_mps.precision import has_bfloat16
from wmtp_torch_mps.train import main

CPU = torch.device("cpu")
needs_bfloat16 = pytest.mark.skipif(
    not has_bfloat16(CPU), reason="this CPU does not multiply in bfloat16"
)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().double()


@needs_bfloat16
@pytest.mark.float64
def test_factors_are_rounded_and_sums_are_not():
    a, b = numbers(64, 96), numbers(96, 80, seed=1)
    with precision.computing(CPU, "bfloat16"):
        found = a @ b
    right = rounded(a) @ rounded(b)
    assert found.dtype == torch.float32
    assert (found - right).abs().max() < 1e-5 * right.abs().max()
    assert (a @ b - right).abs().max() > 1e-3 * right.abs().max()  # and off again


@needs_bfloat16
def test_an_error_leaves_products_as_they_were():
    mode = torch.backends.mkldnn.matmul
    before = mode.fp32_precision
    with pytest.raises(KeyError), precision.multiplying(CPU, "bfloat16"):
        raise KeyError
    assert mode.fp32_precision == before


@needs_bfloat16
@pytest.mark.float64
def test_logits_rounded_by_hand_are_those_of_the_cpu():
    """With large logits, where an answer in bfloat16 would be 0.1 nats off."""
    states_RD, unembed_VD = 6 * numbers(70, 64), numbers(513, 64, seed=1)
    targets_R, factor_R = torch.arange(70) * 7, torch.rand(70)
    found = []
    for by_hand in (False, True):
        matrix_VD = unembed_VD.clone().requires_grad_()
        dtype = "float32" if by_hand else "bfloat16"
        with precision.multiplying(CPU, dtype):
            nll_R, gradient_RD = unembed.nll_rows(
                states_RD, matrix_VD, targets_R, factor_R, block=32, rounded=by_hand
            )
        found.append((nll_R, gradient_RD, matrix_VD.grad))
    right_RV = rounded(states_RD) @ rounded(unembed_VD).T
    right_R = torch.logsumexp(right_RV, 1) - right_RV[torch.arange(70), targets_R]
    assert right_RV.abs().max() > 100
    for nll_R, _, _ in found:
        torch.testing.assert_close(nll_R, right_R.float(), rtol=1e-5, atol=1e-4)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("rows", [1, 3, 700])
def test_a_softmax_in_its_own_memory_is_the_same(rows):
    logits_RV = 5 * numbers(rows, 5000)
    right_RV = torch.log_softmax(logits_RV, dim=1)
    assert torch.equal(unembed._log_softmax(logits_RV), right_RV)


def test_a_device_without_it_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(device, "has_bfloat16", lambda _: False)
    options = ("--device", "cpu", "--machine.dtype", "bfloat16")
    assert error_line(capsys, *options, mains=[main]) == (
        "error: machine.dtype must be float32 here, as this cpu does not multiply in "
        "bfloat16, got 'bfloat16'\n"
    )
