"""JAX, torch and the oracle on the MBPP minis: equal scores, weights, losses, steps.

Each algorithm, head type, rule, layout and dtype is in one of the cases at least
(`chosen`); the slow run has their full product. The largest differences are printed at
the end of the test run (`tests/conftest.py`); `benchmarks/README.md` keeps the table.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from shared import weighting
from shared.config.fields import OptimizerConfig
from tests import oracle, parity
from tests.cases import shorter_rows
from tests.minis import ALGOS, HEAD_TYPES, RULES, K, config, first, gap
from tests.parity import by_name
from wmtp_jax import block_attention as jax_blocks
from wmtp_torch_mps import block_attention as torch_blocks
from wmtp_torch_mps import precision

# Largest differences over the largest number: of losses, scores and weights; of the
# gradient of each parameter.
CLOSE = {"float64": (1e-6, 1e-6), "float32": (1e-5, 1e-4), "bfloat16": (2e-2, 4e-2)}
# A soft weight is exp(score / temperature), clipped: it takes the error of its score
# times weight_ceiling / temperature, here 4.
SPREAD = {"score_BL": 1, "w_BLK": 4, "nll_BLK": 1, "loss": 1}
# Of scores around the cut of rule skip, within which rounding decides.
HALF_WIDTH = {"float64": 1e-5, "float32": 1e-5, "bfloat16": 5e-2}


def assert_same_weights(w_BLK, other_BLK, score_BL, cfg, limit):
    """Equal to rounding; with rule skip only tokens at the cut may differ."""
    if cfg.rule != "skip":
        assert gap(w_BLK, other_BLK) <= SPREAD["w_BLK"] * limit
        return
    width = HALF_WIDTH[cfg.machine.dtype]
    for row, position, head in np.argwhere(w_BLK != other_BLK):
        token = position + 1 + head
        near = np.abs(score_BL[row] - score_BL[row, token]) <= width
        assert near.sum() > 1, (row, token)


def compare(cfg, layout, device="cpu"):
    """Asserts that all agree; the largest differences found."""
    limit, of_gradient = CLOSE[cfg.machine.dtype]
    ours, other = dict(parity.in_jax(cfg, layout)), parity.in_torch(cfg, layout, device)
    right = parity.in_oracle(cfg, ours, first(layout, cfg.machine.dtype))
    mask_BLK = ours["mask_BLK"]
    for found in (ours, other, right):
        found["nll_BLK"] = np.where(mask_BLK, found["nll_BLK"], 0)
    seen = {}
    for name in ("score_BL", "nll_BLK", "loss"):
        to_oracle = max(gap(found[name], right[name]) for found in (ours, other))
        seen[name] = max(gap(ours[name], other[name]), to_oracle)
        assert seen[name] <= SPREAD[name] * limit, name
    for found in (other, right):
        assert_same_weights(
            ours["w_BLK"], found["w_BLK"], right["score_BL"], cfg, limit
        )
        seen["w_BLK"] = max(seen.get("w_BLK", 0), gap(ours["w_BLK"], found["w_BLK"]))
    gradient = by_name(ours["gradient"], cfg)
    assert gradient.keys() == other["gradient"].keys()
    gaps = {n: gap(g, other["gradient"][n]) for n, g in gradient.items()}
    seen["gradient"] = max(gaps.values())
    moved = cfg.rule == "skip" and (ours["w_BLK"] != other["w_BLK"]).any()
    if moved and cfg.machine.dtype == "bfloat16":
        of_gradient *= 5  # one token at the cut, kept by one of them: 0.1 was seen
    assert seen["gradient"] <= of_gradient, max(gaps, key=gaps.get)
    return seen


LAYOUTS = ("packed", "padded")
DTYPES = ("float64", "float32")
CASES = list(product(DTYPES, HEAD_TYPES, ALGOS, RULES, LAYOUTS))


def chosen(dtype, head_type, algo, rule, layout) -> bool:
    """Each algorithm once, with head types, rules, layouts and dtypes in turns.

    `medusa` has the operations of `residual`: one case more does.
    """
    at = ALGOS.index(algo)
    if head_type == "medusa":
        right = (at == 3, 3, 1, 0)
    else:
        right = (head_type == ("linear", "residual", "block")[at % 3],
                 -at % 4, (at // 2 + -at % 4) % 2, int(at > 0))  # fmt: skip
    places = list(RULES).index(rule), LAYOUTS.index(layout), DTYPES.index(dtype)
    return right[0] and places == right[1:]


def test_every_choice_is_in_a_chosen_case():
    found = [case for case in CASES if chosen(*case)]
    assert len(found) == len(ALGOS) + 1
    for place in range(5):
        assert {case[place] for case in found} == {case[place] for case in CASES}


def parameters(case):
    marks = [] if chosen(*case) else [pytest.mark.slow]
    marks += [pytest.mark.float64] if case[0] == "float64" else []
    return pytest.param(*case, marks=marks)


@pytest.mark.parametrize(
    "dtype, head_type, algo, rule, layout", [parameters(case) for case in CASES]
)
def test_everything_agrees(dtype, head_type, algo, rule, layout, record_property):
    cfg = config(algo, head_type, rule, dtype)
    record_property(f"parity {dtype}", compare(cfg, layout))


# Each head type, algorithm and layout.
ROUNDED = [("linear", "critic", "packed"), ("residual", "rho1-weighted", "padded")]
ROUNDED += [("block", "rho1-tokenskip", "packed"), ("linear", "baseline", "padded")]


@pytest.mark.parametrize("route", ["cpu", "as on mps"])
@pytest.mark.parametrize("head_type, algo, layout", shorter_rows(ROUNDED, ROUNDED[1:2]))
def test_products_in_bfloat16_agree(
    head_type, algo, layout, route, record_property, monkeypatch
):
    """oneDNN's products of float32 arrays, and autocast with logits rounded by hand."""
    if route == "as on mps":
        monkeypatch.setattr(precision, "rounds_products", lambda device, dtype: False)
    elif not precision.has_bfloat16(torch.device("cpu")):
        pytest.skip("this CPU does not multiply in bfloat16")
    cfg = config(algo, head_type, "default", "bfloat16")
    seen = compare(cfg, layout)
    assert seen["nll_BLK"] > 1e-4  # they have been rounded
    record_property("parity bfloat16", seen)


@pytest.mark.parametrize("way", ["a document at a time", "as on mps"])
def test_long_rows_agree(way, record_property, monkeypatch):
    """Attention in blocks in both; torch in each of its ways."""
    monkeypatch.setattr(jax_blocks, "BLOCK", 64)
    monkeypatch.setattr(torch_blocks, "BLOCK", 64)
    if way == "as on mps":
        monkeypatch.setattr(torch_blocks, "rounds_products", lambda device, dtype: True)
    cfg = config("critic", "block", "default", family="llama")
    cfg = replace(cfg, machine=replace(cfg.machine, attention="blocks"))
    record_property("parity blocks", compare(cfg, "packed"))


@pytest.mark.mps
@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Apple GPU")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("head_type", HEAD_TYPES)
def test_everything_agrees_on_mps(head_type, algo, rule, record_property):
    cfg = config(algo, head_type, rule, "float32")
    for layout in LAYOUTS:
        record_property("parity mps", compare(cfg, layout, "mps"))


def test_equal_scores_give_the_very_same_kept_tokens():
    """Rule skip on the same scores, ties among them: nothing is left to rounding."""
    import jax.numpy as jnp

    batch = first("packed", "float32")
    rng = np.random.default_rng(0)
    score_BL = np.round(rng.normal(size=batch.target_BL.shape), 1).astype(np.float32)
    numbered = (batch.tokens_BL, batch.document_BL, batch.target_BL)
    mask_BLK = np.asarray(oracle.targets_and_mask(*numbered, K)[1])
    member_BLS = batch.document_BL[:, :, None] == np.arange(1, 5)
    arrays = (score_BL, batch.target_BL, mask_BLK, member_BLS)
    ours, other = (
        np.asarray(
            weighting.skip_weights(*(convert(x) for x in arrays), skip_fraction=0.3)
        )
        for convert in (jnp.asarray, torch.tensor)
    )
    np.testing.assert_array_equal(ours, other)
    assert 0.6 < ours.sum() / mask_BLK.sum() < 0.75


STEPPED = list(product(HEAD_TYPES, ALGOS))


@pytest.mark.parametrize(
    "head_type, algo",
    shorter_rows(STEPPED, [("residual", "critic")]),
)
def test_five_steps_run_the_same_way(head_type, algo, record_property):
    seen = parity.trajectories(config(algo, head_type, "default"), steps=5)
    record_property("parity 5 steps", seen)
    assert seen["metrics"] <= 1e-4
    assert seen["parameters"] <= 1e-4


FAMILIES = [("llama", "block"), ("qwen2", "linear")]


@pytest.mark.slow  # `test_trunk_gradient.py` compares gradients of these, too
@pytest.mark.parametrize("family, head_type", FAMILIES)
def test_other_families_agree(family, head_type, record_property):
    cfg = config("critic", head_type, "default", family=family)
    record_property("parity families", compare(cfg, "packed"))


RUN = [("lion", 0.9), ("sgd", 0.9), ("sgd", 0.0)]


@pytest.mark.parametrize("name, beta1", shorter_rows(RUN, RUN[:1]))
def test_optimizers_schedules_and_head_warmup_run_the_same_way(name, beta1):
    cfg = config("baseline", "residual", "default")
    cfg = replace(
        cfg,
        heads=replace(cfg.heads, warmup_steps=2, trunk_gradient_scale=0.5),
        optimizer=OptimizerConfig(
            name=name,
            beta1=beta1,
            lr=1e-3,
            head_lr_scale=2.0,
            schedule="cosine",
            warmup_steps=2,
            clip_norm=0.5,
        ),
    )
    seen = parity.trajectories(cfg, steps=4)
    assert seen["metrics"] <= 1e-4
    # Lion moves by the sign of a sum, which rounding decides where that is near 0.
    assert name == "lion" or seen["parameters"] <= 1e-4
