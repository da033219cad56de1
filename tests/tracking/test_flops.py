"""FLOPs of a step: against XLA's own count, and by hand."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from shared.config.fields import HeadsConfig, ModelConfig, WeightingConfig
from shared.head_types import HEAD_TYPES
from shared.tracking import flops
from tests.cases import shorter
from tests.small import micro_batches, small_batch, small_config
from wmtp_jax import loss
from wmtp_jax.init_params import init_params

WIDE = {
    "gpt2": {"num_attention_heads": 4},
    "llama": {
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "ffn_width": 384,
        "activation": "silu",
        "family": "llama",
    },
}


@pytest.mark.parametrize("family", WIDE)
@pytest.mark.parametrize("head_type", shorter(HEAD_TYPES, ["linear", "block"]))
def test_flops_are_what_xla_counts(family, head_type):
    """Forward pass of trunk and heads, one document a row; XLA counts the rest, too."""
    cfg = small_config(heads=3, head_type=head_type)
    shape = {"num_layers": 3, "width": 256, "vocab_size": 1000, "max_positions": 32}
    cfg = replace(cfg, model=ModelConfig(**shape, **WIDE[family]))
    batch = small_batch(2, 16, vocab=1000, lengths=[[16], [16]])
    params = jax.eval_shape(lambda: init_params(cfg))

    def plain(params, batch):
        outputs = loss.run_trunk(params, batch, cfg)
        states_KBLD = loss.heads.head_states(params, outputs, cfg)
        shared_VD, own_KVD = loss.heads.unembeddings(params)
        return [
            states_BLD @ (shared_VD if k == 0 or own_KVD is None else own_KVD[k - 1]).T
            for k, states_BLD in enumerate(states_KBLD)
        ]

    compiled = jax.jit(plain).lower(params, batch).compile()
    counted = sum(
        float(line["flops"]) for line in [compiled.cost_analysis()] if line is not None
    )
    # A scan's body is counted once, whatever its length.
    lengths = [16, 16]
    of_layer = flops.trunk_flops(cfg.model, lengths) / 3
    ours = flops.trunk_flops(cfg.model, lengths) - 2 * of_layer
    ours += flops.head_flops(cfg, lengths, rows=3 * 32) / 3
    assert 0.97 < ours / counted < 1.01


def test_a_step_counts_rows_that_weigh_something():
    cfg = small_config("baseline", heads=2)
    batch = micro_batches(small_batch(2, 16, lengths=[[8, 4], [16]]), 1)
    batch = batch.changed(np.asarray)
    np.testing.assert_array_equal(flops.lengths_of(batch), [8, 4, 16])
    model = cfg.model
    D, V = model.width, model.vocab_size
    trunk = 3 * flops.trunk_flops(model, [8, 4, 16])
    layer = 4 * D * D + 2 * D * 4 * D
    pairs = 36 + 10 + 136
    assert trunk == 3 * model.num_layers * (2 * layer * 28 + 4 * D * pairs)
    assert flops.step_flops(cfg, batch, [25, 22]) == trunk + 6 * D * V * 47
    skip = replace(
        cfg,
        algo="rho1-tokenskip",
        weighting=WeightingConfig(),
        heads=HeadsConfig(count=2),
    )
    skipped = flops.step_flops(skip, batch, [20, 15])
    assert skipped == trunk + 6 * D * V * 35 + 2 * D * V * 5  # scored, then dropped


def test_mfu_is_there_where_the_peak_is_known():
    assert flops.peak_flops("NVIDIA H100 80GB HBM3", "bfloat16", 2) == 2 * 989e12
    assert flops.peak_flops("NVIDIA H100 PCIe", "bfloat16", 1) == 756e12
    assert flops.peak_flops("NVIDIA H100 80GB HBM3", "float32", 1) is None
    assert flops.peak_flops("cpu", "bfloat16", 1) is None
    cfg = small_config(heads=1)
    batch = micro_batches(small_batch(2, 16), 1).changed(np.asarray)
    metrics = {"rows_head_0": 20.0}
    found = flops.throughput(cfg, batch, metrics, 0.5, None)
    needed = flops.step_flops(cfg, batch, [20.0])
    assert found == {"tokens_per_s": 48.0, "tflops_per_s": needed / 0.5 / 1e12}
    found = flops.throughput(cfg, batch, metrics, 0.5, 1e9)
    assert found["mfu"] == pytest.approx(needed / 0.5 / 1e9)
