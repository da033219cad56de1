"""The audit lets through what Apple's GPU can run, and stops what it cannot."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch.nn import functional

from shared.config import OptimizerConfig
from tests.formulas import FORMULAS, SETTINGS, arrays_of, example
from tests.huggingface import CASES, CLASSES
from tests.mps_audit import ALIASES, MpsAudit, OneDevice, mps_routes, route
from tests.small import small_batch, small_config
from wmtp_torch_mps.device import to_device
from wmtp_torch_mps.model import WMTP
from wmtp_torch_mps.state import init_state
from wmtp_torch_mps.step import eval_step, train_step

META = torch.device("meta")
B, L = 2, 8


# ---- the table -----------------------------------------------------------------------


def test_the_table_of_routes():
    """Of every kind one operator that is known to be so."""
    expected = {
        "aten::mm": "delegate",
        "aten::mm.out": "kernel",
        "aten::embedding_dense_backward": "kernel",
        "aten::_to_copy": "composite",
        "aten::_fused_adamw_": "kernel",
        "aten::mode": None,
        "aten::_linalg_svd": None,
        "aten::poisson": None,
        "aten::_scaled_dot_product_flash_attention_for_cpu": "kernel",
        "aten::no_such_operator": None,
    }
    assert {name: route(name) for name in expected} == expected


def test_aliases_stand_for_operators_that_exist():
    for name, stands_for in ALIASES.items():
        assert name not in mps_routes() and stands_for in mps_routes()
        namespace, operator = name.split("::")
        assert hasattr(getattr(torch.ops, namespace), operator)


def test_operators_that_the_trainer_needs_have_a_route():
    needed = """
    nonzero nonzero_static argsort.stable sort.stable cumsum gather take_along_dim
    index_add_ index_copy index_copy_ index_select index.Tensor logsumexp
    searchsorted.Tensor any any.dim all all.dim amax scatter_add_ _fused_adamw_
    """
    for operator in needed.split():
        assert route(f"aten::{operator}"), operator


# ---- what it stops -------------------------------------------------------------------

X = torch.arange(12, dtype=torch.float32).reshape(3, 4)


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda: torch.linalg.svd(X), "aten::_linalg_svd has no route to mps"),
        (lambda: torch.linalg.eigh(X @ X.T), "aten::_linalg_eigh has no route"),
        (lambda: torch.poisson(X), "aten::poisson has no route to mps"),
        (lambda: X.mode(dim=1), "aten::mode has no route to mps"),
        (lambda: X.double(), "aten::_to_copy with torch.float64"),
        (lambda: torch.zeros(3, dtype=torch.float64), "aten::zeros with torch.float64"),
        (lambda: torch.tensor(1.0, dtype=torch.float64), "with torch.float64"),
        (lambda: X.to(torch.complex128), "with torch.complex128"),
    ],
)
def test_what_mps_cannot_run_is_stopped(compute, message):
    with MpsAudit(), pytest.raises(AssertionError, match=message):
        compute()


def test_float64_from_numpy_is_stopped_where_it_is_used():
    x = torch.from_numpy(X.numpy().astype("float64"))
    with MpsAudit(), pytest.raises(AssertionError, match="torch.float64"):
        x + 1
    with MpsAudit(float64=True):
        x + 1
        with pytest.raises(AssertionError, match="mode"):
            x.mode(dim=1)


def test_a_backward_pass_is_seen():
    """`cdist` has a kernel on mps, but not its backward of the second order."""

    class Wide(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient.mode(dim=1, keepdim=True).values.expand(3, 4)

    x = X.clone().requires_grad_()
    with MpsAudit(), pytest.raises(AssertionError, match="aten::mode"):
        Wide.apply(x).sum().backward()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x + torch.ones(4),
        lambda x: functional.embedding(torch.tensor([0, 1]), x),
        lambda x: torch.where(torch.tensor([True, False, True, True]), x, 0.0),
        lambda x: torch.cat([x, torch.zeros(1, 4)]),
        lambda x: x[torch.tensor([1])],
        lambda x: x.index_copy(0, torch.tensor([1]), x[:1]),
    ],
)
def test_a_tensor_left_on_the_cpu_is_stopped(wrong):
    x = torch.zeros(3, 4, device=META)
    with OneDevice(META), pytest.raises(AssertionError, match=r"on meta with a tensor"):
        wrong(x)


def test_one_device_lets_through_what_torch_does():
    x = torch.zeros(3, 4, device=META)
    with OneDevice(META):
        y = x + torch.tensor(2.0)  # a number without axes may come from the CPU
        y = y + torch.ones(4).to(META)
        y = y + torch.tensor([1.0, 2.0, 3.0, 4.0], device=META)
        y.add_(1)
        assert torch.ones(4).sum() == 4  # another device's numbers among themselves
        assert torch.nonzero(y > 0).shape == (12, 2)


# ---- what it lets through ------------------------------------------------------------


def additive_mask(device):
    seen_LL = torch.ones(L, L, device=device).tril().bool()
    lowest = torch.full((L, L), torch.finfo(torch.float32).min, device=device)
    return torch.where(seen_LL, torch.zeros_like(lowest), lowest).expand(B, 1, L, L)


def huggingface_step(case, attention, device):
    """Forward, loss, backward, clip and AdamW of a model of `transformers`."""
    family, fields = CASES[case]
    config_class, causal, _ = CLASSES[family]
    config = getattr(transformers, config_class)(**fields)
    config._attn_implementation = attention
    with device:
        model = getattr(transformers, causal)(config)
    # `fused` is for devices with numbers; torch refuses it on meta.
    fused = device.type != "meta"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    tokens_BL = torch.zeros(B, L, dtype=torch.int64, device=device)
    positions_BL = torch.arange(L, device=device)[None].expand(B, L)
    for _ in range(2):
        optimizer.zero_grad()
        logits_BLV = model(
            input_ids=tokens_BL,
            position_ids=positions_BL,
            attention_mask=additive_mask(device),
            use_cache=False,
        ).logits
        flat = logits_BLV[:, :-1].flatten(0, 1)
        functional.cross_entropy(flat, tokens_BL[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", ["gpt2", "llama-tied-grouped", "qwen2-untied"])
def test_a_step_of_transformers_passes(case, attention):
    with MpsAudit() as audit:
        model = huggingface_step(case, attention, torch.device("cpu"))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    # Forward, backward, clipping and update were all seen.
    backward = {
        "aten::embedding_dense_backward",
        "aten::_log_softmax_backward_data",
        "aten::_fused_adamw_",
    }
    assert backward < audit.seen and len(audit.seen) > 40
    flash = "aten::_scaled_dot_product_flash_attention_for_cpu_backward"
    assert (flash in audit.seen) == (attention == "sdpa")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", ["gpt2", "llama-tied-grouped"])
def test_a_step_of_transformers_stays_on_its_device(case, attention):
    with OneDevice(META):
        huggingface_step(case, attention, META)


SCORES = ["normal", "ties"]


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("formula", FORMULAS)
def test_the_formulas_run_on_mps_operators(formula, scores):
    documents = [[(0, 5, 4), (0, 4, 2)], [(0, 3, 2), (1, 2, 0), (0, 3, 1)]]
    a = example(documents, num_heads=3, length=10, scores=scores)
    arrays = SimpleNamespace(**arrays_of("torch", "float32", a))
    with MpsAudit():
        FORMULAS[formula][0](arrays, SETTINGS)


# ---- our own step --------------------------------------------------------------------


def meta_state(algo, head_type, family):
    """A training state without numbers; sgd, as torch has no fused update there."""
    cfg = small_config(algo, head_type=head_type, optimizer=OptimizerConfig(name="sgd"))
    if family == "llama":
        llama = replace(
            cfg.model,
            family="llama",
            activation="silu",
            qkv_bias=False,
            out_bias=False,
            mlp_bias=False,
        )
        cfg = replace(cfg, model=llama)
    with META:
        return init_state(WMTP(cfg))


@pytest.mark.parametrize(
    ("algo", "head_type", "family"),
    [
        ("baseline", "linear", "gpt2"),
        ("rho1-weighted", "residual", "llama"),
        ("rho1-tokenskip", "block", "gpt2"),
        ("critic", "block", "llama"),
    ],
)
def test_our_step_stays_on_its_device(algo, head_type, family):
    state, batch = meta_state(algo, head_type, family), small_batch()
    batches = replace(
        batch,
        **{n: x[None] for n, x in vars(batch).items() if n != "num_documents"},
    )
    with OneDevice(META):
        state, metrics = train_step(state, batches, num_steps=3)
        eval_step(state.params, to_device(batch, META))
    assert state.step == 1 and metrics["loss"].device == META
