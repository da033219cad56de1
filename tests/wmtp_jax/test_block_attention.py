"""Attention in blocks: the same as whole, and its memory grows as its rows do."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared.config.machine import BLOCKS_FROM, MachineConfig
from shared.config.model import ModelConfig
from tests.cases import shorter
from tests.four_devices import said_on_four
from tests.long_rows import LENGTH, SHARED, case, right
from tests.minis import gap
from tests.small import shapes_of, small_config
from wmtp_jax import block_attention, model, step
from wmtp_jax.positions import find_positions, find_starts

# Sums in another order: float32 rounds to 6e-8 and adds up some 40 numbers here.
CLOSE = {"float32": 2e-6, "float64": 1e-14}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Five of 8 positions, the last of them ragged, in a row of 37."""
    monkeypatch.setattr(block_attention, "BLOCK", 8)


def pull_back(attend, given):
    """`(out, d_q, d_k, d_v)`, the answer without what stands in padding."""

    def run(q, k, v, d_out, document_BL):
        out, back = jax.vjp(lambda *x: attend(*x, document_BL), q, k, v)
        return out * (document_BL > 0)[:, :, None, None], *back(d_out)

    return [np.asarray(x, np.float64) for x in jax.jit(run)(*map(jnp.asarray, given))]


def in_blocks(q, k, v, document_BL):
    return block_attention.attend(q, k, v, find_starts(document_BL))


def whole(q, k, v, document_BL):
    mask = find_positions(document_BL, document_BL, ModelConfig()).mask_B1LL
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("float64", marks=pytest.mark.float64)]
)
@pytest.mark.parametrize("heads", shorter(SHARED, ["two keys for four queries"]))
def test_blocks_equal_the_whole(heads, dtype):
    given = case(*SHARED[heads], dtype=dtype)
    with jax.enable_x64(dtype == "float64"):
        found = pull_back(in_blocks, given)
    for ours, theirs in zip(found, right(given), strict=True):
        assert gap(ours, theirs) < CLOSE[dtype]


@pytest.mark.parametrize("block", [LENGTH, 1000])
def test_a_row_may_be_one_block(block, monkeypatch):
    monkeypatch.setattr(block_attention, "BLOCK", block)
    given = case(2, 1)
    for ours, theirs in zip(pull_back(in_blocks, given), right(given), strict=True):
        assert gap(ours, theirs) < CLOSE["float32"]


def test_in_bfloat16_blocks_are_as_near_as_the_whole():
    """Both round what is multiplied, blocks also the gradient of scores."""
    given = case(4, 2)
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in given[:4]]
    given = given._replace(**dict(zip(given._fields, rounded, strict=False)))
    truth = right(given)
    ours, theirs = pull_back(in_blocks, given), pull_back(whole, given)
    for a, b, c in zip(ours, theirs, truth, strict=True):
        near, nearest = (np.abs(x - c).mean() for x in (a, b))
        assert 0 < near < 2 * nearest


def test_under_vmap_each_row_has_its_own_bounds():
    """Trip counts are read from the rows: mapped, they differ from row to row."""
    given = case(2, 1)
    mapped = jax.jit(jax.vmap(lambda *x: in_blocks(*(y[None] for y in x))[0]))
    out_BLNH = mapped(*map(jnp.asarray, (*given[:3], given.document_BL)))
    kept = (given.document_BL > 0)[:, :, None, None]
    assert gap(out_BLNH * kept, right(given)[0]) < CLOSE["float32"]


def test_blocks_of_other_documents_are_not_read():
    """A number that is not finite spreads wherever it is multiplied, even by 0."""
    given = case(2, 1, rows=((8, 29), (9, 28)))
    k_BLMH, v_BLMH = given.k_BLMH.copy(), given.v_BLMH.copy()
    k_BLMH[:, :8] = v_BLMH[:, :8] = np.nan  # the first block
    rows = map(jnp.asarray, (given.q_BLNH, k_BLMH, v_BLMH, given.document_BL))
    out_BLNH = np.asarray(jax.jit(in_blocks)(*rows))
    assert np.isfinite(out_BLNH[:, 16:]).all() and np.isnan(out_BLNH[:, :8]).all()


def test_long_rows_take_blocks_and_make_no_mask():
    cfg = small_config().model
    auto, fixed = MachineConfig(), MachineConfig(attention="xla")
    ways = [model._way_to_attend(cfg, auto, L) for L in (BLOCKS_FROM - 1, BLOCKS_FROM)]
    assert ways == ["xla", "blocks"]
    assert model._way_to_attend(cfg, fixed, 8192) == "xla"


def temporary(length, **machine) -> int:
    """Bytes that loss and gradient of one row need; compiled, not run."""
    cfg = small_config("critic", heads=2, head_type="block")
    cfg = replace(
        cfg,
        data=replace(cfg.data, max_length=length, batch_size=1),
        model=replace(cfg.model, width=128, max_positions=length, num_layers=4),
        machine=replace(cfg.machine, **machine),
    )
    shape = jax.ShapeDtypeStruct
    batch = step.abstract_batch(cfg).changed(lambda x: shape(x.shape[1:], x.dtype))
    run = jax.jit(lambda params, batch: step.gradients(params, batch, cfg, None)[0])
    compiled = run.lower(shapes_of(cfg), batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_of_a_step_grows_as_its_rows_do(monkeypatch):
    """With heads that attend, the critic's losses, and the weights."""
    monkeypatch.setattr(block_attention, "BLOCK", 128)
    short, long = temporary(2048), temporary(4096)
    assert long <= 2.2 * short


@pytest.mark.slow
def test_layers_computed_again_need_less(monkeypatch):
    monkeypatch.setattr(block_attention, "BLOCK", 128)
    assert temporary(4096, rematerialise="layer") < 0.7 * temporary(4096)


@pytest.mark.slow
def test_memory_of_whole_attention_grows_with_the_square(monkeypatch):
    """What the test above would say without blocks."""
    short, long = (temporary(L, attention="xla") for L in (1024, 2048))
    assert long > 3 * short


ON_FOUR = """
import jax, numpy as np
from dataclasses import replace
from tests.small import drawn_params, small_batch, small_config
from wmtp_jax import block_attention, loss, sharding, step
block_attention.BLOCK = 8
cfg = small_config("rho1-weighted", head_type="block")
cfg = replace(cfg, machine=replace(cfg.machine, attention="blocks"))
cfg = replace(cfg, data=replace(cfg.data, batch_size=4, max_length=32))
batch = small_batch(4, 32, lengths=[[8, 8, 9], [30], [4, 24, 1, 2], [32]])
params, found = drawn_params(cfg), []
for devices in (jax.devices(), jax.devices()[:1]):
    mesh = jax.sharding.Mesh(devices, ("data",))
    whole = sharding.replicated(mesh)
    rows = sharding.split_rows(mesh, micro_batches=False)
    run = jax.jit(lambda p, b: step.gradients(p, b, cfg, None, mesh=mesh)[0],
                  in_shardings=(whole, rows), out_shardings=whole)
    found.append(jax.device_get(run(params, batch)))
gaps = jax.tree.map(lambda a, b: np.abs(a - b).max() / np.abs(b).max(), *found)
print(len(jax.devices()), max(jax.tree.leaves(gaps)))
"""


@pytest.mark.slow
def test_four_devices_are_one():
    count, worst = said_on_four(ON_FOUR).split()
    assert count == "4" and float(worst) < 1e-5
