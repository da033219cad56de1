"""Which tensor of which file is which part of the parameter tree.

The tree is that of the trainers: nested dicts, blocks stacked along a leading axis of
layers (heads k >= 1 along theirs), queries, keys and values fused in one kernel, all
kernels [in, out]. Files have the names that `transformers` gives. GPT-2's layers are
stored [in, out] (its Conv1D) and fused already; those of Llama and Qwen2 are Linear,
[out, in].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shared.config.fields import HeadsConfig
from shared.config.model import ModelConfig
from shared.head_types import HEAD_TYPES

MODEL = "model.safetensors"
HEADS = "mtp_heads.safetensors"
VALUE = "value_head.safetensors"

# In one block: leaf of the tree -> its tensors, several where the leaf is fused.
GPT2_BLOCK = {
    "norm1/scale": "ln_1.weight",
    "norm1/bias": "ln_1.bias",
    "attention/qkv/kernel": "attn.c_attn.weight",
    "attention/qkv/bias": "attn.c_attn.bias",
    "attention/out/kernel": "attn.c_proj.weight",
    "attention/out/bias": "attn.c_proj.bias",
    "norm2/scale": "ln_2.weight",
    "norm2/bias": "ln_2.bias",
    "up/kernel": "mlp.c_fc.weight",
    "up/bias": "mlp.c_fc.bias",
    "down/kernel": "mlp.c_proj.weight",
    "down/bias": "mlp.c_proj.bias",
}
LLAMA_BLOCK = {
    "norm1/scale": "input_layernorm.weight",
    "attention/qkv/kernel": (
        "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight"
    ),
    "attention/qkv/bias": (
        "self_attn.q_proj.bias self_attn.k_proj.bias self_attn.v_proj.bias"
    ),
    "attention/out/kernel": "self_attn.o_proj.weight",
    "attention/out/bias": "self_attn.o_proj.bias",
    "norm2/scale": "post_attention_layernorm.weight",
    "gate/kernel": "mlp.gate_proj.weight",
    "gate/bias": "mlp.gate_proj.bias",
    "up/kernel": "mlp.up_proj.weight",
    "up/bias": "mlp.up_proj.bias",
    "down/kernel": "mlp.down_proj.weight",
    "down/bias": "mlp.down_proj.bias",
}
# Outside the blocks: the base model's prefix, then names within it.
GPT2_TRUNK = {
    "prefix": "transformer.",
    "embed": "wte.weight",
    "place": "wpe.weight",
    "blocks": "h",
    "norm/scale": "ln_f.weight",
    "norm/bias": "ln_f.bias",
}
LLAMA_TRUNK = {
    "prefix": "model.",
    "embed": "embed_tokens.weight",
    "blocks": "layers",
    "norm/scale": "norm.weight",
}
BLOCK = {"gpt2": GPT2_BLOCK, "llama": LLAMA_BLOCK, "qwen2": LLAMA_BLOCK}
TRUNK = {"gpt2": GPT2_TRUNK, "llama": LLAMA_TRUNK, "qwen2": LLAMA_TRUNK}
# Constants that older versions of transformers stored beside the weights.
BUFFERS = {
    "gpt2": r"h\.\d+\.attn\.(masked_)?bias",
    "llama": r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
    "qwen2": r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
}
UNEMBED, SCORE = "lm_head.weight", "score.weight"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One tensor of a file.

    Attributes:
      file, name: where it lies.
      path: of the leaf that it is, or is a part of.
      leaf: shape of the whole leaf.
      shape: of the tensor.
      index: along the leaf's leading axis, of layers or of heads; None: not stacked.
      columns: of the leaf's last axis; None: all of them.
      turned: whether the file has it [out, in].
    """

    file: str
    name: str
    path: tuple[str, ...]
    leaf: tuple[int, ...]
    shape: tuple[int, ...]
    index: int | None = None
    columns: slice | None = None
    turned: bool = False

    def view(self, leaf: np.ndarray) -> np.ndarray:
        """This part of the leaf, as the file has it; shares its memory."""
        part = leaf if self.index is None else leaf[self.index]
        part = part if self.columns is None else part[..., self.columns]
        return (part.T if self.turned else part).reshape(self.shape)


def causal_pieces(
    cfg: ModelConfig, heads: HeadsConfig, *, value: bool, prefix: str
) -> list[Piece]:
    """All tensors of a causal model, with its value head if it has one.

    Args:
      prefix: of the base model's names in `model.safetensors`, as in `TRUNK`.
    """
    pieces = [*_trunk_pieces(cfg, prefix), *_head_pieces(cfg, heads)]
    if not cfg.tie_embeddings:
        shape = (cfg.vocab_size, cfg.width)
        pieces.append(_whole(MODEL, UNEMBED, "trunk/unembed", shape))
    return pieces + list(_value_pieces(cfg)) if value else pieces


def reward_pieces(cfg: ModelConfig, *, prefix: str) -> list[Piece]:
    """All tensors of a sequence classifier with one label."""
    D = cfg.width
    score = Piece(file=MODEL, name=SCORE, path=("score",), leaf=(D,), shape=(1, D))
    return [*_trunk_pieces(cfg, prefix), score]


def _trunk_pieces(cfg: ModelConfig, prefix: str) -> Iterator[Piece]:
    names, D = TRUNK[cfg.family], cfg.width
    shapes = {"embed": (cfg.vocab_size, D), "place": (cfg.max_positions, D)}
    for leaf in ("embed", "place", "norm/scale", "norm/bias"):
        if leaf in names:
            shape = shapes.get(leaf, (D,))
            yield _whole(MODEL, prefix + names[leaf], f"trunk/{leaf}", shape)
    for layer in range(cfg.num_layers):
        stack = Stack(MODEL, layer, cfg.num_layers)
        yield from _block_pieces(
            cfg, stack, "trunk/blocks", f"{prefix}{names['blocks']}.{layer}."
        )


def _head_pieces(cfg: ModelConfig, heads: HeadsConfig) -> Iterator[Piece]:
    row, D, extra = HEAD_TYPES[heads.type], cfg.width, heads.count - 1
    sizes = {"V": cfg.vocab_size, "D": D}
    for k in range(1, heads.count):
        stack, name = Stack(HEADS, k - 1, extra), f"mtp_heads.{k}."
        for tensor in row.tensors:
            yield stack.piece(
                name + tensor.name,
                f"heads/{tensor.leaf}",
                tuple(sizes[letter] for letter in tensor.shape),
                turned=tensor.turned,
            )
        if row.copies_block:
            yield from _block_pieces(cfg, stack, "heads/blocks", f"{name}block.")
            yield stack.piece(f"{name}norm.weight", "heads/norms/scale", (D,))
            if not cfg.is_rotary:
                yield stack.piece(f"{name}norm.bias", "heads/norms/bias", (D,))


def _value_pieces(cfg: ModelConfig) -> Iterator[Piece]:
    D, half = cfg.width, max(1, cfg.width // 2)
    for name, leaf, own, shape in (
        ("inner.weight", "inner", (D, half), (half, D)),
        ("inner.bias", "inner_bias", (half,), (half,)),
        ("outer.weight", "outer", (half,), (1, half)),
        ("outer.bias", "outer_bias", (), (1,)),
    ):
        yield Piece(
            file=VALUE,
            name=f"value_head.{name}",
            path=("value", leaf),
            leaf=own,
            shape=shape,
            turned=leaf == "inner",
        )


@dataclass(frozen=True)
class Stack:
    """One place in leaves that are stacked: `index` of `count`, in a file."""

    file: str
    index: int
    count: int

    def piece(
        self,
        name: str,
        path: str,
        leaf: tuple[int, ...],
        columns: slice | None = None,
        turned: bool = False,
    ) -> Piece:
        """The tensor of a leaf whose shape without the stack is `leaf`."""
        own = leaf
        if columns is not None:
            own = (*leaf[:-1], columns.stop - columns.start)
        return Piece(
            file=self.file,
            name=name,
            path=tuple(path.split("/")),
            leaf=(self.count, *leaf),
            shape=own[::-1] if turned else own,
            index=self.index,
            columns=columns,
            turned=turned,
        )


def _block_pieces(
    cfg: ModelConfig, stack: Stack, tree: str, prefix: str
) -> Iterator[Piece]:
    N, M, H = cfg.num_attention_heads, cfg.kv_heads, cfg.H
    ends = (N * H, (N + M) * H, (N + 2 * M) * H)
    fused = [slice(a, b) for a, b in zip((0, *ends), ends, strict=False)]
    for leaf, shape in _block_shapes(cfg).items():
        names = BLOCK[cfg.family][leaf].split()
        turned = cfg.is_rotary and leaf.endswith("kernel")
        for part, name in enumerate(names):
            columns = fused[part] if len(names) > 1 else None
            yield stack.piece(prefix + name, f"{tree}/{leaf}", shape, columns, turned)


def _block_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Leaves of one block and their shapes; biases only where the config has them."""
    N, M, H, D, F = cfg.num_attention_heads, cfg.kv_heads, cfg.H, cfg.width, cfg.F
    layers = {
        "attention/qkv": (D, (N + 2 * M) * H, cfg.qkv_bias),
        "attention/out": (N * H, D, cfg.out_bias),
        "up": (D, F, cfg.mlp_bias),
        "down": (F, D, cfg.mlp_bias),
    }
    if cfg.is_rotary:
        layers["gate"] = (D, F, cfg.mlp_bias)
    shapes: dict[str, tuple[int, ...]] = {"norm1/scale": (D,), "norm2/scale": (D,)}
    if not cfg.is_rotary:
        shapes |= {"norm1/bias": (D,), "norm2/bias": (D,)}
    for name, (inner, outer, biased) in layers.items():
        shapes[f"{name}/kernel"] = (inner, outer)
        if biased:
            shapes[f"{name}/bias"] = (outer,)
    return shapes


def _whole(file: str, name: str, path: str, shape: tuple[int, ...]) -> Piece:
    return Piece(
        file=file, name=name, path=tuple(path.split("/")), leaf=shape, shape=shape
    )
