"""Which tensor of which file is which part of the parameter tree.

The tree is that of the trainers: nested dicts, blocks stacked along a leading axis of
layers (heads k >= 1 along theirs), queries, keys and values fused in one kernel, all
kernels [in, out]. Files have the names that `transformers` gives. GPT-2's layers are
stored [in, out] (its Conv1D) and fused already; those of Llama and Qwen2 are Linear,
[out, in].
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from shared.config.fields import HeadsConfig
from shared.config.model import ModelConfig
from shared.head_types import HEAD_TYPES

MODEL = "model.safetensors"
HEADS = "mtp_heads.safetensors"
VALUE = "value_head.safetensors"
FILES = {"mtp_heads": HEADS, "value_head": VALUE}  # by the first part of a name

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
# Parts of a name by which `torch.compile`, DDP, FSDP and checkpointed layers wrap it.
WRAPPERS = {
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
}


@dataclass(frozen=True)
class Piece:
    """One tensor of a file.

    Attributes:
      name: of the tensor.
      path: of the leaf that it is, or is a part of, as in `trunk/blocks/up/kernel`.
      inner: shape of the leaf without its leading axis of layers or of heads.
      stack: where it is along that axis, and how many are; None: there is no such axis.
      columns: of the leaf's last axis; None: all of them.
      turned: whether the file has it [out, in].
      row: whether the file has it with one more axis, of length 1.
      absent: what fills it where a folder of before has none; None: it must be there.
    """

    name: str
    path: str
    inner: tuple[int, ...]
    stack: tuple[int, int] | None = None
    columns: slice | None = None
    turned: bool = False
    row: bool = False
    absent: float | None = None

    @property
    def leaf(self) -> tuple[int, ...]:
        """Shape of the whole leaf."""
        return (self.stack[1], *self.inner) if self.stack else self.inner

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        own = self.inner
        if self.columns is not None:
            own = (*own[:-1], self.columns.stop - self.columns.start)
        return (1,) * self.row + (own[::-1] if self.turned else own)

    def view(self, leaf: np.ndarray) -> np.ndarray:
        """This part of the leaf, as the file has it; shares its memory."""
        part = leaf[self.stack[0]] if self.stack else leaf
        part = part if self.columns is None else part[..., self.columns]
        return (part.T if self.turned else part).reshape(self.shape)


def unwrapped(name: str) -> str:
    """The name of a tensor in the model itself, whatever wrapped the model."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def file_of(name: str) -> str:
    """The file of a model folder that holds the tensor."""
    return FILES.get(name.partition(".")[0], MODEL)


def pieces_of(
    cfg: ModelConfig,
    heads: HeadsConfig,
    parts: Collection[str],
    *,
    prefix: str,
    trunk: bool = True,
) -> list[Piece]:
    """All tensors of a model.

    Args:
      parts: of the tree; `value` is the value head of a causal model, `score` makes a
        sequence classifier with one label, which has no other head.
      prefix: of the base model's names in `model.safetensors`, as in `TRUNK`.
      trunk: whether its tensors are wanted; a trunk that never learns has no moments.
    """
    pieces = _all_pieces(cfg, heads, parts, prefix)
    return [x for x in pieces if trunk or not x.path.startswith("trunk/")]


def _all_pieces(
    cfg: ModelConfig, heads: HeadsConfig, parts: Collection[str], prefix: str
) -> list[Piece]:
    D, half = cfg.width, max(1, cfg.width // 2)
    pieces = list(_trunk_pieces(cfg, prefix))
    if "score" in parts:
        return [*pieces, Piece(SCORE, "score", (D,), row=True)]
    pieces += _head_pieces(cfg, heads)
    if not cfg.tie_embeddings:
        pieces.append(Piece(UNEMBED, "trunk/unembed", (cfg.vocab_size, D)))
    if "value" in parts:
        pieces += [
            Piece("value_head.mean", "value/mean", (D,), absent=0.0),
            Piece("value_head.deviation", "value/deviation", (D,), absent=1.0),
            Piece("value_head.inner.weight", "value/inner", (D, half), turned=True),
            Piece("value_head.inner.bias", "value/inner_bias", (half,)),
            Piece("value_head.outer.weight", "value/outer", (half,), row=True),
            Piece("value_head.outer.bias", "value/outer_bias", (), row=True),
        ]
    return pieces


def _trunk_pieces(cfg: ModelConfig, prefix: str) -> Iterator[Piece]:
    names, D = TRUNK[cfg.family], cfg.width
    shapes = {"embed": (cfg.vocab_size, D), "place": (cfg.max_positions, D)}
    for leaf in ("embed", "place", "norm/scale", "norm/bias"):
        if leaf in names:
            yield Piece(prefix + names[leaf], f"trunk/{leaf}", shapes.get(leaf, (D,)))
    for layer in range(cfg.num_layers):
        stack, at = (layer, cfg.num_layers), f"{prefix}{names['blocks']}.{layer}."
        yield from _block_pieces(cfg, stack, "trunk/blocks", at)


def _head_pieces(cfg: ModelConfig, heads: HeadsConfig) -> Iterator[Piece]:
    row, D = HEAD_TYPES[heads.type], cfg.width
    sizes = {"V": cfg.vocab_size, "D": D}
    for k in range(1, heads.count):
        stack, at = (k - 1, heads.count - 1), f"mtp_heads.{k}."
        for tensor in row.tensors:
            shape = tuple(sizes[letter] for letter in tensor.shape)
            path = f"heads/{tensor.leaf}"
            yield Piece(at + tensor.name, path, shape, stack, turned=tensor.turned)
        if row.copies_block:
            yield from _block_pieces(cfg, stack, "heads/blocks", f"{at}block.")
            yield Piece(f"{at}norm.weight", "heads/norms/scale", (D,), stack)
            if not cfg.is_rotary:
                yield Piece(f"{at}norm.bias", "heads/norms/bias", (D,), stack)


def _block_pieces(
    cfg: ModelConfig, stack: tuple[int, int], tree: str, at: str
) -> Iterator[Piece]:
    """Those of one block; biases of linear layers only where the config has them."""
    N, M, H, D, F = cfg.num_attention_heads, cfg.kv_heads, cfg.H, cfg.width, cfg.F
    layers = {
        "attention/qkv": (D, (N + 2 * M) * H, cfg.qkv_bias),
        "attention/out": (N * H, D, cfg.out_bias),
        "gate": (D, F, cfg.mlp_bias),
        "up": (D, F, cfg.mlp_bias),
        "down": (F, D, cfg.mlp_bias),
    }
    norm = (0, D, True)
    ends = (N * H, (N + M) * H, (N + 2 * M) * H)
    fused = [slice(a, b) for a, b in zip((0, *ends), ends, strict=False)]
    for leaf, names in BLOCK[cfg.family].items():
        layer, _, kind = leaf.rpartition("/")
        inner, outer, biased = layers.get(layer, norm)
        if kind == "bias" and not biased:
            continue
        shape = (inner, outer) if kind == "kernel" else (outer,)
        turned, parts = cfg.is_rotary and kind == "kernel", names.split()
        for part, name in enumerate(parts):
            columns = fused[part] if len(parts) > 1 else None
            yield Piece(at + name, f"{tree}/{leaf}", shape, stack, columns, turned)
