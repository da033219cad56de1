"""Apple's GPU could run what the torch trainer runs; the audit would tell if not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.optim import adam

from shared.config.fields import HeadsConfig
from shared.data.documents import load_splits
from shared.data.packing import pack_tightly
from shared.data.tokenizer import load_tokenizer
from tests.cases import shorter
from tests.minis import ALGOS, HEAD_TYPES, L, config, first, minis
from tests.mps_audit import Audit, NoMps, OnMeta, audited, routes
from tests.signal_passes import over_documents
from wmtp_torch_mps import block_attention, critic, reference, unembed
from wmtp_torch_mps import loss as loss_module
from wmtp_torch_mps.model import WMTP
from wmtp_torch_mps.state import init_state
from wmtp_torch_mps.step import eval_step, train_step

pytestmark = pytest.mark.unaudited


@pytest.fixture
def meta(monkeypatch):
    """A device that has shapes but no numbers.

    What waits for numbers is given some: rows that weigh something, copies on the CPU.
    """

    def every_row(kept):
        return torch.arange(kept.numel(), device=kept.device)

    def zeros(tensor):
        assert tensor.device.type == "meta"
        with torch.utils._python_dispatch._disable_current_modes():
            return torch.zeros(tensor.shape, dtype=tensor.dtype)

    monkeypatch.setattr(unembed, "kept_rows", every_row)
    monkeypatch.setattr(torch.Tensor, "cpu", zeros)
    # As on mps, the step counts of the fused AdamW lie on the device.
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_, **__: None)
    return torch.device("meta")


def short(batch):
    """The first positions of a batch: what is computed, not how much, is asked here."""
    return batch.changed(lambda x: np.ascontiguousarray(x[..., :64]))


def setting(algo="critic", head_type="linear", family="gpt2", **machine):
    cfg = config(algo, head_type, "default", family=family)
    return replace(cfg, machine=replace(cfg.machine, **machine))


@pytest.mark.parametrize("attention", ["eager", "sdpa", "blocks"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_every_operator_of_a_step_has_a_route(family, attention, monkeypatch):
    """All head types and algorithms in turn; evaluation and stage 1 too."""
    # What mps computes, not torch's kernel for a CPU.
    monkeypatch.setattr(block_attention, "rounds_products", lambda device, dtype: True)
    batches = short(minis("packed")[0])
    for head_type, algo in zip(HEAD_TYPES, ALGOS, strict=True):
        cfg = setting(algo, head_type, family, attention=attention)
        model = WMTP(cfg)
        state = init_state(model)
        with audited() as audit:
            train_step(state, batches, 5)
            eval_step(model, short(first("packed", "float32")))
        assert {"mm", "log_softmax.int_out", "embedding_dense_backward"} <= audit.seen


@pytest.mark.parametrize("name", ["lion", "sgd"])
def test_every_optimizer_has_a_route(name):
    cfg = setting()
    cfg = replace(cfg, optimizer=replace(cfg.optimizer, name=name))
    with audited() as audit:
        train_step(init_state(WMTP(cfg)), short(minis("packed")[0]), 5)
    assert "_fused_adamw_" not in audit.seen


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd"])
def test_float16_has_a_route(name):
    """Steps, and one whose gradient overflows."""
    cfg = setting("critic", "block", dtype="float16")
    cfg = replace(cfg, optimizer=replace(cfg.optimizer, name=name))
    state = init_state(WMTP(cfg))
    scaler = state.scaler.state_dict()
    with audited() as audit:
        train_step(state, short(minis("packed")[0]), 5)
        state.scaler.load_state_dict(scaler | {"scale": 2.0**40})
        train_step(state, short(minis("packed")[0]), 5)
        eval_step(state.params, short(first("packed", "float32")))
    assert state.skipped == 1
    assert "_amp_foreach_non_finite_check_and_unscale_" in audit.seen


@pytest.mark.parametrize("algo", shorter(ALGOS, ["rho1-tokenskip", "critic"]))
@pytest.mark.parametrize("head_type", [*HEAD_TYPES, "one head"])
def test_no_device_is_forgotten_in_a_step(algo, head_type, meta):
    cfg = setting(algo, head_type, "llama" if head_type == "block" else "gpt2")
    if head_type == "one head":
        cfg = replace(cfg, heads=HeadsConfig(count=1))
    model = WMTP(cfg).to(meta)
    state = init_state(model)
    with OnMeta():
        state, metrics = train_step(state, short(minis("packed")[0]), 5)
        eval_step(model, short(first("packed", "float32")))
    on_device = {n: x.device.type for n, x in metrics.items() if torch.is_tensor(x)}
    assert "loss" in on_device and set(on_device.values()) == {"meta"}


def test_no_device_is_forgotten_in_long_rows(meta):
    cfg = setting("baseline", "block", "llama", attention="blocks")
    state = init_state(WMTP(cfg).to(meta))
    with OnMeta():
        _, metrics = train_step(state, short(minis("packed")[0]), 5)
    assert metrics["loss"].device.type == "meta"


def test_no_device_is_forgotten_in_stage_1_and_the_reference(meta):
    model = WMTP(setting()).to(meta)
    optimizer = torch.optim.Adam(model.value_head.inner.parameters(), fused=True)
    rows = (
        np.zeros((8, setting().model.width), "f4"),
        np.zeros(8, "f4"),
        np.ones(8, bool),
    )
    with OnMeta():
        critic._update(model, optimizer, rows)
        critic._frozen_hidden(model, short(first("packed", "float32")))
    cfg = setting("baseline")
    cfg = replace(cfg, heads=HeadsConfig(count=1))
    tokenizer = load_tokenizer("bytes")
    split = load_splits(cfg.data, tokenizer, splits=("validation",))["validation"]
    model = WMTP(cfg).to(meta)
    with OnMeta():
        answer = reference.make_ref_nll(model)
        rows = pack_tightly([len(d.tokens) for d in split.documents], L)
        found = over_documents(answer, cfg, split, rows)
    assert len(found) == len(split.documents)


@pytest.mark.parametrize(
    "compute, told",
    [
        (lambda x: torch.linalg.svd(x), "_linalg_svd has no route"),
        (lambda x: torch.linalg.eigh(x @ x.T), "_linalg_eigh has no route"),
        (lambda x: torch.mode(x), "mode has no route"),
        (lambda x: torch.poisson(x.exp()), "poisson has no route"),
        (lambda x: x.double(), "float64"),
        (lambda x: x + torch.ones(4, 4, dtype=torch.float64), "float64"),
        (lambda x: torch.arange(4.0, dtype=torch.float64), "float64"),
    ],
)
def test_the_audit_catches(compute, told):
    x = torch.ones(4, 4)
    compute(x)  # a CPU can
    with pytest.raises(NoMps, match=told), Audit():
        compute(x)


def test_the_audit_catches_what_only_the_backward_pass_runs():
    class Sneaky(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient.double().float()

    x = torch.ones(3, requires_grad=True)
    with pytest.raises(NoMps, match="float64"), Audit():
        Sneaky.apply(x).sum().backward()


def plant(monkeypatch, fault):
    """A step whose weights pass through `fault`."""
    real = loss_module.weigh
    monkeypatch.setattr(loss_module, "weigh", lambda *given: fault(real(*given)))


@pytest.mark.parametrize(
    "fault",
    [
        lambda w: w + torch.linalg.svd(w[:, :, 0])[1].sum(),
        lambda w: w.double().float(),
    ],
)
def test_a_fault_planted_in_the_step_is_caught(fault, monkeypatch):
    plant(monkeypatch, fault)
    batches, state = short(minis("packed")[0]), init_state(WMTP(setting()))
    train_step(state, batches, 5)  # a CPU can
    with pytest.raises(NoMps), Audit():
        train_step(state, batches, 5)


def test_a_forgotten_device_planted_in_the_step_is_caught(monkeypatch, meta):
    plant(monkeypatch, lambda w: w * torch.ones(w.shape[2]))
    batches, state = short(minis("packed")[0]), init_state(WMTP(setting()).to(meta))
    with pytest.raises(NoMps, match=r"has a tensor on the CPU, \(3,\)"), OnMeta():
        train_step(state, batches, 5)


def test_the_list_of_routes_is_torchs_own():
    """Counted in torch 2.13 by hand: an empty or a full list would check nothing."""
    without = {name for name, route in routes().items() if not route}
    assert len(routes()) > 2500 and 100 < len(without) < 600
    for name in ("mul.Tensor", "mm", "sort.stable", "nonzero", "cumsum"):
        assert routes()[name]
