"""`heads.only` and `heads.target` in both trainers: the trunk is a constant."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.extend.core import jaxprs_in_params

from shared.config.fields import Config, HeadsConfig
from shared.huggingface.tree import to_tensors
from shared.run.finite import measured
from shared.tracking.flops import step_flops, trunk_flops
from tests import oracle, resuming, trained
from tests.cases import shorter, shorter_rows
from tests.minis import HEAD_TYPES, config, gap
from tests.resuming import assert_same_end
from tests.small import drawn_params, micro_batches, small_batch, small_config
from tests.test_head_warmup import Jax, Torch, batch_of, to_jax, to_torch
from tests.torch_models import start_of, torch_model
from wmtp_jax import heads as jax_heads
from wmtp_jax import loss as jax_loss
from wmtp_jax import optimizer, row_blocks, sharding, state, step, train
from wmtp_torch_mps import loss as torch_loss
from wmtp_torch_mps import state as torch_state
from wmtp_torch_mps import train as torch_train
from wmtp_torch_mps.device import to_device
from wmtp_torch_mps.model import group_of, learning, named
from wmtp_torch_mps.step import divide, train_step

BATCH = small_batch(seed=4, lengths=[[9, 6], [12]]).changed(np.asarray)
BACKENDS = {"jax": train, "torch": torch_train}


def config_of(head_type, algo="baseline", *, family="gpt2", **heads) -> Config:
    cfg = config(algo, head_type, "default", family=family)
    asked = {"only": True, "weight": ()} | heads
    return replace(cfg, heads=replace(cfg.heads, **asked))


def in_jax(cfg):
    """Loss, and gradient by name, of what learns."""

    def run(params, batch):
        grad_L, grad_V, sums, _ = step.gradients(params, batch, cfg, None)
        return step.divide(grad_L, grad_V, sums, cfg), sums.loss_sum / sums.weight

    gradient, loss = jax.jit(run)(start_of(cfg), BATCH.changed(jnp.asarray))
    assert ("trunk" in gradient) != cfg.heads.only
    trunk = {"trunk": not cfg.heads.only}
    tensors = to_tensors(jax.device_get(gradient), cfg.model, cfg.heads, **trunk)
    return float(loss), tensors


def in_torch(cfg):
    """The same of the torch trainer."""
    model, value_gradients = torch_model(cfg, start_of(cfg)), {}
    batch = to_device(BATCH, torch.device("cpu"))
    sums, _ = torch_loss.add_gradients(model, batch, value_gradients)
    if cfg.heads.only:
        of_trunk = {n: p for n, p in named(model).items() if group_of(n) == "trunk"}
        assert of_trunk and all(p.grad is None for p in of_trunk.values())
    divide(learning(model), value_gradients, sums, cfg)
    found = {name: p.grad.numpy() for name, p in learning(model).items()}
    return float(sums.loss_sum / sums.weight), found


# Gradients.


# head_weight: head 0 out of the loss, or in.
OUT, IN = (0.0, 1.0, 1.0), (2.0, 1.0, 0.5)
APART = [
    ("medusa", "critic", OUT),
    ("linear", "baseline", IN),
    ("residual", "rho1-weighted", OUT),
    ("medusa", "rho1-weighted", IN),
    ("block", "rho1-tokenskip", OUT),
]


EITHER = [(of, *row) for of in (in_jax, in_torch) for row in APART]
NORMAL = [(in_jax, *APART[0]), (in_torch, *APART[0]), (in_torch, *APART[1])]


@pytest.mark.parametrize(
    "gradient, head_type, algo, weight", shorter_rows(EITHER, NORMAL)
)
def test_heads_learn_as_beside_a_trunk_out_of_reach(gradient, head_type, algo, weight):
    """`trunk_gradient_scale` 0 of plain training gives them the same gradient."""
    cfg = config_of(head_type, algo, weight=() if weight == OUT else weight)
    loss, found = gradient(cfg)
    plain = {"only": False, "trunk_gradient_scale": 0.0, "weight": weight}
    right_loss, right = gradient(config_of(head_type, algo, **plain))
    assert loss == pytest.approx(right_loss, rel=1e-5)
    assert found.keys() == {n for n in right if group_of(n) != "trunk"}
    for name, x in found.items():
        if not name.endswith("c_attn.bias"):  # of the keys: rounding alone
            assert gap(x, right[name]) < 1e-4, name


@pytest.mark.parametrize("head_type", shorter(HEAD_TYPES, ["medusa"]))
def test_the_trunk_is_not_differentiated(head_type):
    """No scan over its layers runs backwards, and XLA computes what is counted."""
    cfg = small_config(heads=3, head_type=head_type)
    cfg = replace(cfg, model=replace(cfg.model, num_layers=5))
    only = replace(cfg, heads=replace(cfg.heads, only=True))
    batch = small_batch()

    def backwards(cfg):
        params = jax.eval_shape(lambda: state.init_params(cfg))
        found = jax.make_jaxpr(lambda p: step.gradients(p, batch, cfg, None)[0])(params)
        scans = [e.params for e in found.eqns if e.primitive.name == "scan"]
        return [x["reverse"] for x in scans if x["length"] == 5]

    assert backwards(cfg) == [False, True] and backwards(only) == [False]


def test_in_torch_the_trunk_leaves_no_graph():
    cfg = config_of("medusa")
    model = torch_model(cfg, start_of(cfg))
    outputs = torch_loss.run_trunk(model, to_device(BATCH, torch.device("cpu")))
    assert outputs.hidden_BLD.grad_fn is None and outputs.residual_BLD.grad_fn is None


def test_a_step_costs_one_pass_of_the_trunk():
    cfg = small_config(heads=3, head_type="medusa")
    only = replace(cfg, heads=replace(cfg.heads, only=True))
    batch = micro_batches(small_batch(2, 16, lengths=[[8, 4], [16]]), 1)
    batch = batch.changed(np.asarray)
    D, V, tokens = cfg.model.width, cfg.model.vocab_size, 28
    trunk = trunk_flops(cfg.model, [8, 4, 16])
    assert step_flops(only, batch, [0, 22, 19]) == (
        trunk + 4 * D * V * 41 + 2 * (2 + 2) * D * D * tokens
    )
    own = replace(only, heads=replace(only.heads, target="self"))
    more = step_flops(own, batch, [0, 22, 19]) - step_flops(only, batch, [0, 22, 19])
    assert more == 2 * D * V * 25  # head 0's logits at every target


# Steps.


def size(tree) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("algo", shorter(["baseline", "critic"], ["critic"]))
def test_only_what_learns_moves_and_has_moments_in_jax(algo):
    cfg = small_config(algo, head_type="medusa")
    cfg = replace(cfg, heads=replace(cfg.heads, only=True))
    tx = optimizer.make_optimizer(cfg, 5)
    jitted, _ = step.make_train_step(cfg, tx, 5, sharding.make_mesh(cfg))
    begin = jax.jit(lambda params: state.init_state(cfg, params, tx))
    before = begin(drawn_params(cfg))
    learns = size(state.learning_of(before.params, cfg))
    assert 2 * learns <= size(before.opt_state) <= 2 * learns + 64  # and its counts
    start = jax.device_get(before.params)
    after, metrics = jitted(before, micro_batches(small_batch(), 1))
    after, metrics = jitted(after, micro_batches(small_batch(), 1))
    same = jax.tree.map(np.array_equal, start, jax.device_get(after.params))
    assert all(jax.tree.leaves(same["trunk"]))
    assert not any(jax.tree.leaves(same["heads"]))
    assert algo == "baseline" or not same["value"]["inner"]
    told = measured({name: float(x) for name, x in metrics.items()}, cfg)
    assert told["rows_head_0"] == 0 and "nll_head_0" not in told
    assert told["rows_head_1"] > 0 and told["kept_fraction"] == 1
    assert told["grad_norm_trunk"] == 0 < told["grad_norm_heads"]


@pytest.mark.parametrize("algo", ["baseline", "critic"])
def test_only_what_learns_moves_and_has_moments_in_torch(algo):
    cfg = config_of("medusa", algo)
    run = torch_state.init_state(torch_model(cfg, start_of(cfg)))
    before = {n: p.detach().clone() for n, p in named(run.params).items()}
    for _ in range(2):
        run, metrics = train_step(run, micro_batches(BATCH, 1), 5)
    for name, p in named(run.params).items():
        assert torch.equal(before[name], p) == (group_of(name) == "trunk") or (
            name in ("value_head.mean", "value_head.deviation")
        )
    held = {id(p) for p in run.optimizer.state}
    assert held == {id(p) for p in learning(run.params).values()}
    assert metrics["rows_head_0"] == 0 and metrics["grad_norm_trunk"] == 0


CROSSED = [(Jax, to_torch), (Torch, to_jax)]


@pytest.mark.parametrize("trainer, cross", shorter_rows(CROSSED, CROSSED[:1]))
def test_the_other_trainer_goes_on(trainer, cross, tmp_path):
    cfg = small_config("critic", head_type="medusa")
    cfg = replace(cfg, heads=replace(cfg.heads, only=True))
    cfg = replace(cfg, optimizer=replace(cfg.optimizer, lr=1e-2))
    run = trainer(cfg)
    start = run.parameters()
    for number in range(2):
        run.step(batch_of(number))
    other = cross(run, tmp_path)
    for number in range(2, 4):
        run.step(batch_of(number))
        other.step(batch_of(number))
    found, right = other.parameters(), run.parameters()
    for name, x in right.items():
        assert gap(found[name] - start[name], x - start[name]) < 1e-2, name
        if group_of(name) == "trunk":
            np.testing.assert_array_equal(found[name], start[name])


@pytest.mark.parametrize("backend", shorter(BACKENDS, ["torch"]))
def test_a_resumed_run_is_an_uninterrupted_one(backend, tmp_path):
    """With a model of its own, which the export has whole."""
    trainer = BACKENDS[backend]
    options = ("--heads.only", "--head-type", "medusa", "--heads.target", "self")
    whole = trained.run(trainer, tmp_path, "whole", *options)
    assert (whole / "model" / "model.safetensors").is_file()
    copied = trained.cut(trained.copy_of(whole, tmp_path), 6)
    assert trainer.main(["--resume", str(copied)]) == 0
    if backend == "jax":
        assert_same_end(copied, whole)
    rows, again = trained.rows(whole), trained.rows(copied)
    assert rows.keys() == again.keys()
    for number, row in rows.items():
        for name in row.keys() - resuming.TIMES:
            assert row[name] == again[number][name], (number, name)
    assert rows[12]["eval_nll_head_0"] == rows[0]["eval_nll_head_0"]
    assert rows[12]["loss"] < rows[1]["loss"]


def test_early_stopping_follows_what_moves(tmp_path):
    options = "--heads.only --head-type medusa --train.patience 1 --heads 3".split()
    done = trained.run(torch_train, tmp_path, "a", *options)
    rows = trained.rows(done)
    assert set(rows) == set(range(13))  # it got better, though head 0 did not
    summary = resuming.contents(done)["summary.json"].decode()
    mean = np.mean([rows[12][f"eval_nll_head_{k}"] for k in (1, 2)])
    assert f'"best_eval_nll_heads": {mean:.6f}'[:-2] in summary


# Targets of its own.


def own_targets_by_hand(hidden_BLD, unembed_VD, K):
    """Loops in float64: the token that head 0 would say at the position before."""
    B, L, _ = hidden_BLD.shape
    target_BLK = np.zeros((B, L, K), int)
    for b in range(B):
        for place in range(L):
            for k in range(K):
                if place + k < L:
                    h_D = hidden_BLD[b, place + k].astype(np.float64)
                    target_BLK[b, place, k] = np.argmax(unembed_VD @ h_D)
    return target_BLK


def nll_by_hand(states_KBLD, target_BLK, unembed_VD):
    """`nll_BLK` in float64, with all the logits."""
    logits_KBLV = states_KBLD.astype(np.float64) @ unembed_VD.T
    total_KBL = np.log(np.exp(logits_KBLV).sum(axis=3))
    index_KBL1 = np.moveaxis(target_BLK, 2, 0)[..., None]
    chosen_KBL = np.take_along_axis(logits_KBLV, index_KBL1, axis=3)[..., 0]
    return np.moveaxis(total_KBL - chosen_KBL, 0, 2)


def test_own_targets_are_the_trunks_argmax():
    """In both trainers, and a head's nll is that of them; the mask is the data's."""
    cfg = config_of("medusa", target="self", weight=(1.0, 1.0, 1.0))
    params, batch = start_of(cfg), BATCH.changed(jnp.asarray)

    def run(params):
        outputs = jax_loss.run_trunk(params, batch, cfg)
        sums, _ = jax_loss.micro_batch_sums(params, batch, cfg)
        return jax_heads.head_states(params, outputs, cfg), sums.nll_K, sums.rows_K

    states_KBLD, nll_K, rows_K = jax.device_get(jax.jit(run)(params))
    unembed_VD = np.asarray(jax_heads.unembeddings(params)[0], np.float64)
    own_BLK = own_targets_by_hand(states_KBLD[0], unembed_VD, 3)
    data_BLK, mask = oracle.targets_and_mask(
        BATCH.tokens_BL, BATCH.document_BL, BATCH.target_BL, 3
    )
    mask_BLK = np.asarray(mask)
    assert (np.asarray(data_BLK)[mask_BLK] != own_BLK[mask_BLK]).mean() > 0.5
    nll_BLK = np.where(mask_BLK, nll_by_hand(states_KBLD, own_BLK, unembed_VD), 0)
    np.testing.assert_array_equal(rows_K, mask_BLK.sum((0, 1)))
    np.testing.assert_allclose(nll_K, nll_BLK.sum((0, 1)), rtol=1e-5)
    model, here = torch_model(cfg, params), to_device(BATCH, torch.device("cpu"))
    sums, _ = torch_loss.add_gradients(model, here, {})
    np.testing.assert_allclose(sums.nll_K.numpy(), nll_K, rtol=1e-5)
    hidden = torch_loss.run_trunk(model, here).hidden_BLD
    theirs = torch_loss.own_targets(model, hidden, torch.tensor(mask_BLK)).numpy()
    np.testing.assert_array_equal(theirs[mask_BLK], own_BLK[mask_BLK])


@pytest.mark.parametrize("head_type", shorter(["medusa", "linear"], ["medusa"]))
def test_heads_that_learn_from_it_learn_alike(head_type):
    cfg = config_of(head_type, target="self")
    (loss, ours), (other, theirs) = in_jax(cfg), in_torch(cfg)
    assert loss == pytest.approx(other, rel=1e-5)
    for name, x in ours.items():
        assert gap(x, theirs[name]) < 1e-4, name


def test_own_targets_never_hold_all_logits(monkeypatch):
    for name in ("LARGEST_BLOCK", "SMALLEST_BLOCK", "SMALL_WIDTH"):
        monkeypatch.setattr(row_blocks, name, 8)
    cfg = config_of("medusa", target="self")
    rows, V = BATCH.tokens_BL.size, cfg.model.vocab_size

    def shapes(jaxpr):
        for eqn in jaxpr.eqns:
            yield from (x.aval.shape for x in eqn.outvars)
            for inner in jaxprs_in_params(eqn.params):
                yield from shapes(inner)

    batch = BATCH.changed(jnp.asarray)
    made = jax.make_jaxpr(lambda p: step.gradients(p, batch, cfg, None)[0])
    with_V = [x for x in shapes(made(start_of(cfg)).jaxpr) if V in x]
    assert with_V and max(np.prod(x) for x in with_V if V in x[-1:]) < rows * V


# What makes no sense.


@pytest.mark.parametrize(
    "heads, part",
    [
        ({"count": 1}, "heads.count must be >= 2 with only"),
        ({"warmup_steps": 5}, "heads.warmup_steps must be 0 with only"),
        ({"weight": (1.0, 0.0, 0.0)}, "heads.weight must be above 0 for a head k >= 1"),
        ({"only": False, "target": "self"}, "heads.target must be data without only"),
    ],
)
def test_what_makes_no_sense_is_refused(heads, part):
    with pytest.raises(ValueError, match=part):
        HeadsConfig(**{"count": 3, "only": True} | heads)


def test_the_value_loss_cannot_reach_a_frozen_trunk():
    cfg = config_of("medusa", "critic")
    with pytest.raises(
        ValueError, match=r"trunk_gradient must be false with heads\.only"
    ):
        replace(cfg, critic=replace(cfg.critic, trunk_gradient=True))
