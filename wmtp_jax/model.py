"""The decoder. The only file that imports Flax.

Flax is used for what it does well, naming and initialising parameters; everything
outside sees a few functions over a plain dict of arrays:

    trunk   = init_trunk(key, model)
    outputs = forward(trunk, tokens, positions, documents, model, machine)

One decoder serves all families (`shared/config/model.py`): GPT-2 has LayerNorm, learned
positions and an ungated layer; Llama and Qwen2 have RMSNorm, rotary positions,
queries that share keys, and a gated layer. Its blocks are stacked along a leading layer
axis and run as a scan, so that compile time does not grow with depth.

Axes: B rows, L positions, V vocabulary, D width, N query heads, M key and value heads,
H width of a head, F inner width of a block.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from shared.config.machine import BLOCKS_FROM, MachineConfig
from shared.config.model import ModelConfig
from wmtp_jax import block_attention, layout
from wmtp_jax.positions import Positions, find_positions, turn

Params = dict[str, Any]
ACTIVATIONS = {
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Outputs:
    """What one pass of the trunk leaves for heads and value head.

    Attributes:
      hidden_BLD: the trunk state after the final norm; head 0 reads it.
      residual_BLD: the same before the final norm.
      positions: what a further block needs to attend.
      dropout_key: by which it drops, if the trunk has dropped.
    """

    hidden_BLD: jax.Array
    residual_BLD: jax.Array
    positions: Positions
    dropout_key: jax.Array | None = None


class Attention(nn.Module):
    """Causal self-attention within one document; N / M queries share a key.

    Devices along `tensor` have some of the heads each, where it divides N and M.
    """

    cfg: ModelConfig
    machine: MachineConfig
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, x_BLD, positions, layer):
        cfg = self.cfg
        N, M, H = cfg.num_attention_heads, cfg.kv_heads, cfg.H
        deviation, dtype = cfg.init_deviation, self.machine.dtype
        qkv_BLX = _dense((N + 2 * M) * H, dtype, "qkv", deviation, cfg.qkv_bias)(x_BLD)
        qkv_BLX = layout.by_rows(qkv_BLX, self.mesh)
        qkv_BLXH = qkv_BLX.reshape(*x_BLD.shape[:2], N + 2 * M, H)
        q_BLNH, k_BLMH, v_BLMH = map(
            self._divided, jnp.split(qkv_BLXH, (N, N + M), axis=2)
        )
        if positions.turn_BL2H is not None:
            q_BLNH = turn(q_BLNH, positions.turn_BL2H)
            k_BLMH = turn(k_BLMH, positions.turn_BL2H)
        if cfg.scale_by_layer:
            q_BLNH = q_BLNH / layer.astype(q_BLNH.dtype)
        way = _way_to_attend(cfg, self.machine, x_BLD.shape[1])
        qkv = q_BLNH, k_BLMH, v_BLMH
        if way == "blocks":
            mixed_BLNH = block_attention.attend(*qkv, positions.start_BL)
        else:
            mixed_BLNH = jax.nn.dot_product_attention(
                *qkv, mask=positions.mask_B1LL, implementation=way
            )
        mixed_BLX = mixed_BLNH.reshape(*x_BLD.shape[:2], N * H)
        out = _dense(cfg.width, dtype, "out", cfg.branch_deviation, cfg.out_bias)
        return out(mixed_BLX)

    def _divided(self, x_BLNH: jax.Array) -> jax.Array:
        """Its heads over `tensor`; here and backward nothing else becomes so."""
        x_BLNH = layout.by_rows(x_BLNH, self.mesh)
        count = layout.size_of(self.mesh, layout.TENSOR)
        if self.cfg.num_attention_heads % count or self.cfg.kv_heads % count:
            return x_BLNH
        return layout.by_rows(x_BLNH, self.mesh, split=2)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward layer of width F."""

    cfg: ModelConfig
    machine: MachineConfig
    dropping: bool = False
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, x_BLD, positions, layer):
        cfg, dtype = self.cfg, self.machine.dtype
        deviation, bias = cfg.init_deviation, cfg.mlp_bias
        drop = nn.Dropout(cfg.dropout, deterministic=not self.dropping)
        whole = partial(layout.by_rows, mesh=self.mesh)
        normed_BLD = whole(_norm(cfg, dtype, "norm1")(x_BLD))
        attention = Attention(cfg, self.machine, self.mesh, name="attention")
        x_BLD = x_BLD + drop(whole(attention(normed_BLD, positions, layer)))
        normed_BLD = whole(_norm(cfg, dtype, "norm2")(x_BLD))
        up_BLF = _dense(cfg.F, dtype, "up", deviation, bias)(normed_BLD)
        activate = ACTIVATIONS[cfg.activation]
        if cfg.is_rotary:
            gate_BLF = _dense(cfg.F, dtype, "gate", deviation, bias)(normed_BLD)
            inner_BLF = activate(gate_BLF) * up_BLF
        else:
            inner_BLF = activate(up_BLF)
        down = _dense(cfg.width, dtype, "down", cfg.branch_deviation, bias)
        inner_BLF = layout.by_rows(inner_BLF, self.mesh, split=2)
        return whole(x_BLD + drop(whole(down(inner_BLF))))


class Trunk(nn.Module):
    """Token (and learned position) embeddings, the blocks, the final norm."""

    cfg: ModelConfig
    machine: MachineConfig
    dropping: bool = False
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, tokens_BL, positions_BL, positions):
        cfg, normal = self.cfg, nn.initializers.normal(self.cfg.init_deviation)
        embed_VD = self.param("embed", normal, (cfg.vocab_size, cfg.width))
        if not cfg.tie_embeddings and self.is_initializing():
            self.param("unembed", normal, (cfg.vocab_size, cfg.width))
        embed_VD = layout.in_use({"embed": embed_VD}, self.mesh)["embed"]
        x_BLD = embed_VD[tokens_BL]
        if not cfg.is_rotary:
            place_PD = self.param("place", normal, (cfg.max_positions, cfg.width))
            place_PD = layout.in_use({"place": place_PD}, self.mesh)["place"]
            x_BLD = x_BLD + place_PD[positions_BL]
        x_BLD = layout.by_rows(x_BLD.astype(self.machine.dtype), self.mesh)
        x_BLD = nn.Dropout(cfg.dropout, deterministic=not self.dropping)(x_BLD)
        blocks = nn.scan(
            _run_layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=cfg.num_layers,
            in_axes=(nn.broadcast, 0),
        )
        kind = _layer_kind(self.machine, self.mesh)
        block = kind(cfg, self.machine, self.dropping, self.mesh, name="blocks")
        layers = jnp.arange(1, cfg.num_layers + 1)
        residual_BLD, _ = blocks(block, x_BLD, positions, layers)
        hidden_BLD = _norm(cfg, self.machine.dtype, "norm")(residual_BLD)
        return layout.by_rows(hidden_BLD, self.mesh), residual_BLD


def _run_layer(block: Block, x_BLD: jax.Array, positions: Positions, layer: jax.Array):
    return block(x_BLD, positions, layer), None


def _layer_kind(machine: MachineConfig, mesh: Mesh | None) -> Any:
    """The block as a layer runs it: with its matrices gathered, and what it keeps."""
    kind: Any = Block
    if layout.shares_matrices(mesh):
        gather = partial(layout.in_use, mesh=mesh, dtype=machine.dtype)
        kind = nn.map_variables(Block, "params", trans_in_fn=gather)
    # Inside a scan XLA cannot merge the second computation with the first.
    if machine.rematerialise == "layer":
        return nn.remat(kind, prevent_cse=False)
    if layout.shares_matrices(mesh):
        return nn.remat(kind, prevent_cse=False, policy=layout.all_but_gathered)
    return kind


def _dense(features: int, dtype, name: str, deviation: float, bias: bool):
    """A linear layer over the last axis of `[B, L, ...]`."""
    kernel_init = nn.initializers.normal(deviation)
    layer = nn.Dense(
        features, use_bias=bias, dtype=dtype, kernel_init=kernel_init, name=name
    )

    def apply(x_BLX: jax.Array) -> jax.Array:
        # As rows of a matrix: contracted over both B and L, XLA's CPU backend computes
        # the gradient of the kernel at less than half the rate.
        rows_RX = x_BLX.reshape(-1, x_BLX.shape[-1])
        return layer(rows_RX).reshape(*x_BLX.shape[:-1], features)

    return apply


def _norm(cfg: ModelConfig, dtype, name: str | None = None):
    if cfg.is_rotary:
        return nn.RMSNorm(epsilon=cfg.norm_epsilon, dtype=dtype, name=name)
    # The fast variance, E[x^2] - E[x]^2, cancels on the large features that pretrained
    # models have.
    return nn.LayerNorm(
        epsilon=cfg.norm_epsilon, dtype=dtype, use_fast_variance=False, name=name
    )


def _way_to_attend(cfg: ModelConfig, machine: MachineConfig, length: int) -> str:
    """`blocks`, or which kernel `jax.nn.dot_product_attention` takes."""
    if machine.attention != "auto":
        return machine.attention
    on_gpu = machine.device in ("auto", "gpu") and jax.default_backend() == "gpu"
    # cuDNN's limits; with a mask it trains on even lengths only.
    fits = cfg.H % 8 == 0 and cfg.H <= 128 and length % 2 == 0
    if on_gpu and fits and machine.dtype == "bfloat16":
        return "cudnn"
    return "blocks" if length >= BLOCKS_FROM else "xla"


def init_trunk(key: jax.Array, cfg: ModelConfig) -> Params:
    """Random parameters of the trunk, float32."""
    tokens_BL = jnp.zeros((1, 1), jnp.int32)
    positions = find_positions(tokens_BL, tokens_BL, cfg)
    return Trunk(cfg, MachineConfig()).init(key, tokens_BL, tokens_BL, positions)[
        "params"
    ]


def forward(
    trunk: Params,
    tokens_BL: jax.Array,
    positions_BL: jax.Array,
    document_BL: jax.Array,
    cfg: ModelConfig,
    machine: MachineConfig | None = None,
    *,
    dropout_key: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> Outputs:
    """Runs the trunk; attention is causal and within one document.

    Args:
      trunk: `params["trunk"]`, float32.
      document_BL: number of the document of a position, 0 for padding.
      machine: dtype of the computation, kernel of attention, rematerialisation.
      dropout_key: drops with `cfg.dropout` if given; nothing is dropped without.
      mesh: the devices that share rows and parameters, if there are many.
    """
    machine = machine or MachineConfig()
    masked = _way_to_attend(cfg, machine, tokens_BL.shape[1]) != "blocks"
    positions = find_positions(positions_BL, document_BL, cfg, masked=masked)
    dropping = dropout_key is not None and cfg.dropout > 0
    module = Trunk(cfg, machine, dropping, mesh)
    hidden_BLD, residual_BLD = module.apply(
        {"params": trunk},
        tokens_BL,
        positions_BL,
        positions,
        rngs={"dropout": dropout_key} if dropping else None,
    )
    left_key = dropout_key if dropping else None
    return Outputs(hidden_BLD, residual_BLD, positions, left_key)


def block_state(
    block: Params,
    norm: Params,
    x_BLD: jax.Array,
    positions: Positions,
    cfg: ModelConfig,
    machine: MachineConfig,
    dropout_key: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """One more last block and final norm, with parameters of their own."""
    last = jnp.asarray(cfg.num_layers)
    run = Block(cfg, machine, dropout_key is not None, mesh).apply
    if machine.rematerialise == "layer":
        run = jax.checkpoint(run)
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    out_BLD = run({"params": block}, x_BLD, positions, last, rngs=rngs)
    return _norm(cfg, machine.dtype).apply({"params": norm}, out_BLD)
