"""Our decoder against `transformers`: every family, every way to lay out a row."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared.config.fields import Config, DataConfig, HeadsConfig, MachineConfig
from shared.config.layers import build
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.folder import read_model, read_reward_model
from tests import hf_models
from tests.cases import shorter, shorter_rows
from wmtp_jax import heads, model

CAUSAL = list(hf_models.CASES)
ONE_EACH = ["gpt2-codeparrot", "llama-untied-biases", "qwen2-tied"]
REWARD = ["gpt2", "llama-tied-grouped", "qwen2-untied"]
L = 12


@pytest.fixture(scope="module", params=CAUSAL)
def pair(request, tmp_path_factory):
    """A model of `transformers`, and config and trunk that we read from its folder."""
    return make_pair(request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=ONE_EACH)
def family(request, tmp_path_factory):
    """The same for one case of each family: config and parameters."""
    return make_pair(request.param, tmp_path_factory)[1:]


def make_pair(case, tmp_path_factory):
    theirs = hf_models.make(case)
    folder = hf_models.save(theirs, tmp_path_factory.mktemp(case))
    return theirs, *read(folder)


def read(folder, reader=read_model):
    layer = read_hf_config(folder).layer
    cfg = build(layer | {"data.max_length": 16}).model
    return cfg, jax.tree.map(jnp.asarray, reader(folder, cfg))


def ours(params, cfg, tokens_BL, document_BL, positions_BL, machine=None):
    """Logits and hidden states of the trunk, jitted as the trainer does."""

    def run(params):
        outputs = model.forward(
            params["trunk"],
            jnp.asarray(tokens_BL, jnp.int32),
            jnp.asarray(positions_BL, jnp.int32),
            jnp.asarray(document_BL, jnp.int32),
            cfg,
            machine,
        )
        unembed_VD, _ = heads.unembeddings(params)
        logits_BLV = jnp.einsum("bld,vd->blv", outputs.hidden_BLD, unembed_VD)
        return logits_BLV, outputs.hidden_BLD

    return jax.jit(run)(params)


def rows(lengths, side="right", seed=0):
    """Random tokens, their mask, and positions that start at 0 in each row."""
    rng = np.random.default_rng(seed)
    tokens_BL = rng.integers(2, 61, (len(lengths), L))
    mask_BL = np.zeros((len(lengths), L), np.int32)
    positions_BL = np.zeros_like(mask_BL)
    for row, n in enumerate(lengths):
        here = slice(0, n) if side == "right" else slice(L - n, L)
        mask_BL[row, here] = 1
        positions_BL[row, here] = np.arange(n)
    return np.where(mask_BL, tokens_BL, 0), mask_BL, positions_BL


# (At the right it is in the packed row of the next test.)
@pytest.mark.parametrize("side", shorter(["right", "left"], ["left"]))
def test_logits_and_states_equal_transformers(pair, side):
    theirs, cfg, params = pair
    tokens_BL, mask_BL, positions_BL = rows([L, 7, 3], side)
    logits, hidden = hf_models.run(theirs, tokens_BL, mask_BL, positions_BL)
    got_logits, got_hidden = ours(params, cfg, tokens_BL, mask_BL, positions_BL)
    real = mask_BL.astype(bool)
    assert np.abs(logits[real]).max() > 0.5  # there is something to be equal to
    np.testing.assert_allclose(got_hidden[real], hidden[real], atol=1e-4, rtol=0)
    np.testing.assert_allclose(got_logits[real], logits[real], atol=1e-4, rtol=0)


def test_packed_documents_equal_transformers_one_by_one(pair):
    theirs, cfg, params = pair
    tokens_BL, _, _ = rows([L])
    document_BL = np.array([[1] * 5 + [2] * 4 + [0] * 3])
    positions_BL = np.array([[*range(5), *range(4), 0, 0, 0]])
    got, _ = ours(params, cfg, tokens_BL, document_BL, positions_BL)
    for start, end in ((0, 5), (5, 9)):
        alone, _ = hf_models.run(
            theirs, tokens_BL[:, start:end], np.ones((1, end - start)),
            [list(range(end - start))],
        )  # fmt: skip
        np.testing.assert_allclose(got[:, start:end], alone, atol=1e-4, rtol=0)


def test_a_wrong_field_shows(family):
    """The comparison above can fail: each field that a family reads changes logits."""
    cfg, params = family
    tokens_BL, mask_BL, positions_BL = rows([L])
    before, _ = ours(params, cfg, tokens_BL, mask_BL, positions_BL)
    changes = {"norm_epsilon": 0.5, "activation": "relu"}
    if cfg.is_rotary:
        changes |= {"rope_theta": cfg.rope_theta * 3}
    for name, value in changes.items():
        wrong = replace(cfg, **{name: value})
        after, _ = ours(params, wrong, tokens_BL, mask_BL, positions_BL)
        assert np.abs(np.asarray(after - before)).max() > 1e-3, name


@pytest.mark.slow
def test_rematerialising_changes_no_number(family):
    cfg, params = family
    tokens_BL, mask_BL, positions_BL = rows([L])

    def total(params, machine):
        logits, _ = ours(params, cfg, tokens_BL, mask_BL, positions_BL, machine)
        return jnp.sum(jnp.sin(logits))

    plain, again = (
        jax.grad(total)(params, MachineConfig(rematerialise=x))
        for x in ("none", "layer")
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        plain["trunk"], again["trunk"],
    )  # fmt: skip


def test_bfloat16_stays_near(family):
    cfg, params = family
    tokens_BL, mask_BL, positions_BL = rows([L])
    exact, _ = ours(params, cfg, tokens_BL, mask_BL, positions_BL)
    machine = MachineConfig(dtype="bfloat16")
    rough, hidden = ours(params, cfg, tokens_BL, mask_BL, positions_BL, machine)
    assert hidden.dtype == jnp.bfloat16
    error = np.abs(np.asarray(rough, np.float32) - np.asarray(exact))
    assert 0 < error.max() < 0.05 * np.abs(np.asarray(exact)).max()


@pytest.mark.parametrize(
    "head_type, linear_start",
    shorter_rows(
        [
            ("linear", "random"),
            ("linear", "unembedding"),
            ("residual", "random"),
            ("medusa", "random"),
            ("block", "random"),
        ],
        [("linear", "random"), ("block", "random")],
    ),
)
def test_head_0_of_a_loaded_model_is_the_base_model(family, head_type, linear_start):
    """At step 0, whatever heads are added: the very bits of K = 1."""
    cfg, params = family
    config = Config(
        model=cfg,
        heads=HeadsConfig(count=3, type=head_type, linear_start=linear_start),
        data=DataConfig(max_length=16),
    )
    tokens_BL, mask_BL, positions_BL = rows([L, 5])

    def run(params, count):
        some = replace(config, heads=replace(config.heads, count=count))
        new = heads.init_heads(jax.random.key(1), params["trunk"], cfg, some.heads)
        whole = {"trunk": params["trunk"], "heads": new}
        outputs = model.forward(
            whole["trunk"], *map(jnp.asarray, (tokens_BL, positions_BL, mask_BL)), cfg
        )
        states_KBLD = heads.head_states(whole, outputs, some)
        shared_VD, own_KVD = heads.unembeddings(whole)
        return states_KBLD, shared_VD, own_KVD

    states_KBLD, shared_VD, own_KVD = jax.jit(run, static_argnums=1)(params, 3)
    base_KBLD, base_VD, _ = jax.jit(run, static_argnums=1)(params, 1)
    np.testing.assert_array_equal(states_KBLD[0], base_KBLD[0])
    np.testing.assert_array_equal(shared_VD, base_VD)
    if own_KVD is not None and linear_start == "unembedding":
        np.testing.assert_array_equal(own_KVD[1], base_VD)
    if head_type in ("residual", "medusa"):
        np.testing.assert_allclose(states_KBLD[2], base_KBLD[0], atol=1e-6)
    if (
        head_type == "block"
    ):  # the last block once more on its own output: another state
        assert np.abs(np.asarray(states_KBLD[1] - base_KBLD[0])).max() > 1e-3


@pytest.mark.parametrize("case", REWARD)
def test_scores_of_a_reward_model_equal_transformers(case, tmp_path):
    theirs = hf_models.make(case, "reward")
    cfg, params = read(hf_models.save(theirs, tmp_path), read_reward_model)
    lengths = [L, 7, 3]
    tokens_BL, mask_BL, positions_BL = rows(lengths)
    expected, _ = hf_models.run(theirs, tokens_BL, mask_BL, positions_BL)
    outputs = jax.jit(
        lambda trunk: model.forward(
            trunk, *map(jnp.asarray, (tokens_BL, positions_BL, mask_BL)), cfg
        )
    )(params["trunk"])
    score_BL = jnp.einsum("bld,d->bl", outputs.hidden_BLD, params["score"])
    got = [score_BL[row, n - 1] for row, n in enumerate(lengths)]
    np.testing.assert_allclose(got, expected[:, 0], atol=1e-4, rtol=0)
    assert np.ptp(got) > 1e-2
