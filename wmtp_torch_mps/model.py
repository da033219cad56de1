"""The model: a stock trunk of `transformers`, heads k >= 1 and a value head beside it.

Parameters have the names that they have in a model's files
(`shared/huggingface/names.py`): `base` is what `transformers` reads and writes, the
rest stands under `mtp_heads` and `value_head`.

    model   = WMTP(cfg)
    outputs = forward(model, tokens, positions, documents)

Axes: B rows, L positions, K heads, V vocabulary, D width.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from shared.config.fields import Config
from shared.config.machine import BLOCKS_FROM
from shared.huggingface.config_json import make_hf_config
from shared.huggingface.names import HEADS, MODEL, VALUE, file_of
from shared.huggingface.tree import ByName, Params, to_tensors
from wmtp_torch_mps import block_attention
from wmtp_torch_mps.heads import kind_of
from wmtp_torch_mps.precision import attention_dtype, computing, rounds_products

# By family: config, model, and where in its base the layers and the final norm are.
# Names, since `transformers` imports a class, slowly, when it is first asked for.
FAMILIES = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", "h", "ln_f"),
    "llama": ("LlamaConfig", "LlamaForCausalLM", "layers", "norm"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", "layers", "norm"),
}


@dataclass(frozen=True)
class Outputs:
    """What one pass of the trunk leaves for heads and value head.

    Attributes:
      hidden_BLD: the trunk state after the final norm; head 0 reads it.
      residual_BLD: the same before the final norm.
      positions: what a further block needs to attend.
    """

    hidden_BLD: Tensor
    residual_BLD: Tensor
    positions: dict[str, Any] = field(repr=False)


class Value(nn.Module):
    """Linear D -> D // 2, ReLU, Linear -> 1, with biases, of what is standardised.

    Float32. `mean` and `deviation` are measured by stage 1 and get no gradient.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = max(1, width // 2)
        self.mean = nn.Parameter(torch.zeros(width))
        self.deviation = nn.Parameter(torch.ones(width))
        self.inner = nn.Linear(width, half)
        self.outer = nn.Linear(half, 1)

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        hidden_BLD = hidden_BLD.to(self.inner.weight.dtype)
        hidden_BLD = (hidden_BLD - self.mean.detach()) / self.deviation.detach()
        return self.outer(functional.relu(self.inner(hidden_BLD))).squeeze(-1)

    @torch.no_grad()
    def start(self, head: dict[str, np.ndarray]) -> None:
        """Takes the head that stage 1 begins with (`linear_fit.start_head`)."""
        for name, parameter in (
            ("mean", self.mean),
            ("deviation", self.deviation),
            ("inner", self.inner.weight),
            ("inner_bias", self.inner.bias),
            ("outer", self.outer.weight),
            ("outer_bias", self.outer.bias),
        ):
            parameter.copy_(torch.from_numpy(head[name].T).reshape(parameter.shape))


class WMTP(nn.Module):
    """Trunk, heads and (critic) value head of a config; weights as torch makes them.

    A frozen reference is the same with one head; a reward model has a `score` row.
    """

    def __init__(self, cfg: Config, *, score: bool = False) -> None:
        super().__init__()
        self.cfg = cfg
        *classes, layers, norm = FAMILIES[cfg.model.family]
        config_class, kind = (getattr(transformers, name) for name in classes)
        keys = make_hf_config(cfg.model, None, kind="causal", eos_id=0, pad_id=None)
        hf_config = config_class.from_dict(keys | {"use_cache": False})
        if cfg.model.family == "gpt2" and cfg.model.activation == "gelu_tanh":
            # `gelu_new` by one kernel: as eight it takes a fifth of the trunk's time,
            # and keeps four arrays as wide as the layer for the backward pass.
            hf_config.activation_function = "gelu_pytorch_tanh"
        self.base = kind(hf_config)
        trunk = self.base.base_model
        # In lists, so that they get no second name.
        self.final_norm = [trunk.get_submodule(norm)]
        self.last_layer = [trunk.get_submodule(layers)[-1]]
        if cfg.machine.rematerialise == "layer":
            self.base.activation_checkpointing_enable({"use_reentrant": False})
        parts = (self.base.config, self.last_layer[0], self.final_norm[0])
        made = [kind_of(self).make(*parts) for _ in range(1, cfg.heads.count)]
        self.mtp_heads = nn.ModuleDict({str(k): x for k, x in enumerate(made, 1)})
        if cfg.algorithm.value_head:
            self.value_head = Value(cfg.model.width)
        if score:
            self.score = nn.Linear(cfg.model.width, 1, bias=False)

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def unembed_VD(self) -> Tensor:
        """Of head 0, and of every head without one of its own."""
        return self.base.get_output_embeddings().weight


def way_to_attend(model: WMTP, length: int) -> str:
    """`blocks`, or what `transformers` attends with.

    Where a CPU rounds products to bfloat16, torch's fused kernel makes them in small
    pieces, and takes three times as long as whole ones.
    """
    machine = model.cfg.machine
    if machine.attention != "auto":
        return machine.attention
    if length >= BLOCKS_FROM:
        return "blocks"
    return "eager" if rounds_products(model.device, machine.dtype) else "sdpa"


def named(model: WMTP) -> dict[str, nn.Parameter]:
    """Every parameter by the name of its tensor in the files; a tied one once."""
    found = model.named_parameters()
    return {name.removeprefix("base."): parameter for name, parameter in found}


def learning(model: WMTP) -> dict[str, nn.Parameter]:
    """Those that learn: all, or with `heads.only` all but the trunk's."""
    only = model.cfg.heads.only
    found = named(model).items()
    return {n: p for n, p in found if not (only and group_of(n) == "trunk")}


def group_of(name: str) -> str:
    """Which rate and which gradient norm a parameter belongs to."""
    return {HEADS: "heads", VALUE: "value", MODEL: "trunk"}[file_of(name)]


def by_name(tensors: dict[str, Tensor]) -> ByName:
    """Parameters, or anything of their names, for who writes files.

    NumPy arrays, on a CPU in the tensors' own memory.
    """
    return ByName(
        {
            name: tensor.detach().to("cpu", torch.float32).numpy()
            for name, tensor in tensors.items()
        }
    )


def from_tree(tree: Params, cfg: Config, *, trunk: bool = True) -> dict[str, Tensor]:
    """A tree's tensors by their names; copies, on the CPU."""
    return {
        name: torch.from_numpy(np.array(array, np.float32, order="C"))
        for name, array in to_tensors(tree, cfg.model, cfg.heads, trunk=trunk).items()
    }


@torch.no_grad()
def fill(model: WMTP, tensors: dict[str, Tensor]) -> None:
    """Copies tensors into the parameters of their names; others stay as they are."""
    parameters = named(model)
    for name, tensor in tensors.items():
        parameters[name].copy_(tensor)


def attention_mask(document_BL: Tensor, dtype: torch.dtype) -> Tensor:
    """`[B, 1, L, L]`, 0 where a position may attend and the lowest number elsewhere.

    Additive: `transformers` takes a boolean mask of four axes without an error, and
    with eager attention adds it, which masks nothing.
    """
    L = document_BL.shape[1]
    same_BLL = document_BL[:, :, None] == document_BL[:, None, :]
    index_L = torch.arange(L, device=document_BL.device)
    seen_BLL = same_BLL & (index_L[:, None] >= index_L[None, :])[None]
    nothing = torch.zeros((), dtype=dtype, device=document_BL.device)
    lowest = torch.full_like(nothing, torch.finfo(dtype).min)
    return torch.where(seen_BLL, nothing, lowest)[:, None]


def _find_positions(model: WMTP, document_BL: Tensor) -> dict[str, Any]:
    """What layers are given to attend by; tells them with what, too."""
    way, name = way_to_attend(model, document_BL.shape[1]), model.cfg.machine.dtype
    if way == "blocks":
        way = block_attention.register()
        documents = block_attention.find_documents(document_BL, name)
        # Of four axes, so that `transformers` makes no mask; what attends reads none.
        positions = {"attention_mask": documents.start_BL[:, None, None, :]}
        positions["documents"] = documents
    else:
        dtype = attention_dtype(model.device, name, model.base.dtype)
        positions = {"attention_mask": attention_mask(document_BL, dtype)}
    model.base.config._attn_implementation = way
    return positions


def forward(
    model: WMTP,
    tokens_BL: Tensor,
    positions_BL: Tensor,
    document_BL: Tensor,
    *,
    dropping: bool = False,
) -> Outputs:
    """Runs the trunk; attention is causal and within one document.

    Args:
      document_BL: number of the document of a position, 0 for padding.
      dropping: whether dropout is on (`cfg.model.dropout`).
    """
    trunk = model.base.base_model
    # `transformers` rematerialises in training mode alone, in which dropout is on too.
    again = model.cfg.machine.rematerialise == "layer" and model.cfg.model.dropout == 0
    model.train(dropping or again)
    positions = _find_positions(model, document_BL)
    seen: list[Tensor] = []
    hook = model.final_norm[0].register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[0])
    )
    learns = torch.is_grad_enabled() and not model.cfg.heads.only
    computed = computing(model.device, model.cfg.machine.dtype)
    try:
        with torch.set_grad_enabled(learns), computed:
            hidden_BLD = trunk(
                input_ids=tokens_BL,
                position_ids=positions_BL,
                use_cache=False,
                **positions,
            ).last_hidden_state
    finally:
        hook.remove()
    if model.cfg.model.is_rotary:
        positions["position_embeddings"] = trunk.rotary_emb(seen[0], positions_BL)
    return Outputs(hidden_BLD, seen[0], positions)
