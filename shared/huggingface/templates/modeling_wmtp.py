"""A causal language model with K prediction heads, for Hugging Face transformers.

From WMTP (weighted multi-token prediction), which puts it in the model folders that
it writes. Licence: Apache-2.0. Such a folder is two models in one:

    # the plain base model (GPT-2, Llama or Qwen2), which is head 0; no code of ours
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    # all heads, if you also choose `trust_remote_code`: transformers runs this file
    logits_BLKV = model(**tokenizer("def f(", return_tensors="pt")).logits

`logits_BLKV[b, l, k]` are those of token `l + 1 + k`, given the tokens up to `l`.

Head 0 is the base model untouched. Heads k >= 1 read the state h after the trunk's
final norm, or (`block`) the state before it. `mtp_config` in config.json says how
many heads there are and of which type; mtp_heads.safetensors holds their weights:

    linear    its own V x D matrix
    residual  h + outer(silu(inner(h))), then the base's output matrix
    medusa    h + silu(outer(h)), outer with a bias, then the base's output matrix
    block     a layer like the trunk's last, a norm, then the base's output matrix

Axes: B rows, L positions, K heads, V vocabulary, D width. Needs transformers >= 5.0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    GenerationMixin,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import cached_file

HEADS_FILE = "mtp_heads.safetensors"
AUTO_MAP = {"AutoModelForCausalLM": "modeling_wmtp.WMTPForCausalLM"}
# By model type: the stock class, and where in it the layers and the final norm are. An
# Auto class in its place could lead back to this file.
FAMILIES: dict[str, tuple[Any, str, str]] = {
    "gpt2": (GPT2LMHeadModel, "transformer.h", "transformer.ln_f"),
    "llama": (LlamaForCausalLM, "model.layers", "model.norm"),
    "qwen2": (Qwen2ForCausalLM, "model.layers", "model.norm"),
}
# The arguments of `from_pretrained` that say where files are to be found.
WHERE = "cache_dir force_download local_files_only proxies revision subfolder token"


class ResidualHead(nn.Module):
    """h + outer(silu(inner(h))), of the state h after the final norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width, bias=False)
        self.outer = nn.Linear(width, width, bias=False)

    def forward(self, state_BLD: Tensor) -> Tensor:
        return state_BLD + self.outer(functional.silu(self.inner(state_BLD)))


class MedusaHead(nn.Module):
    """h + silu(outer(h)), of the state h after the final norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.outer = nn.Linear(width, width)

    def forward(self, state_BLD: Tensor) -> Tensor:
        return state_BLD + functional.silu(self.outer(state_BLD))


class BlockHead(nn.Module):
    """norm(block(x)), of the state x before the final norm."""

    def __init__(self, last: nn.Module, norm: Any, config: Any) -> None:
        super().__init__()
        epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        number = config.num_hidden_layers - 1  # attention may depend on it
        self.block = type(last)(config, number)
        self.norm = type(norm)(config.hidden_size, eps=epsilon)

    def forward(self, state_BLD: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = self.block(state_BLD, *args, **kwargs)
        return self.norm(output[0] if isinstance(output, tuple) else output)


@dataclass(frozen=True)
class HeadType:
    """What a head k >= 1 computes.

    `make` takes the config of the base, its last layer and its final norm.
    """

    make: Callable[[Any, nn.Module, nn.Module], nn.Module]
    before_norm: bool = False  # whether it reads the state before the final norm
    own_unembedding: bool = False  # its output are logits, no state


HEAD_TYPES = {
    "linear": HeadType(
        lambda c, layer, norm: nn.Linear(c.hidden_size, c.vocab_size, bias=False),
        own_unembedding=True,
    ),
    "residual": HeadType(lambda config, layer, norm: ResidualHead(config.hidden_size)),
    "medusa": HeadType(lambda config, layer, norm: MedusaHead(config.hidden_size)),
    "block": HeadType(
        lambda config, layer, norm: BlockHead(layer, norm, config), before_norm=True
    ),
}


class WMTPForCausalLM(PreTrainedModel, GenerationMixin):
    """A stock causal model, `base`, and beside it the heads k >= 1, `mtp_heads`."""

    base_model_prefix = "base"
    supports_gradient_checkpointing = True
    # As in the three stock classes.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    _supports_attention_backend = True
    accepts_loss_kwargs = False  # to Trainer: the loss is a mean already

    def __init__(self, config: Any, base: Any = None) -> None:
        """Puts new heads on `base`, a stock model; without one, on a new base."""
        stock, num_heads, head_type = described(config)
        base = stock(config) if base is None else base
        super().__init__(base.config)
        self.base = base
        self.generation_config = base.generation_config
        self.head_type = HEAD_TYPES[head_type]
        named = {str(k): self._new_head() for k in range(1, num_heads)}
        self.mtp_heads = nn.ModuleDict(named)
        self.post_init()

    def init_weights(self) -> None:
        """Nothing is left to do: base and heads have their weights when made."""

    def _new_head(self) -> nn.Module:
        """A head with random weights."""
        head = self.head_type.make(self.config, *self._last_layer_and_norm())
        return head.apply(self.base._init_weights)

    @classmethod
    def from_pretrained(cls, path: Any, *, config: Any = None, **kwargs: Any) -> Any:
        """Opens a folder, or a name on the hub.

        The stock class opens the base model with all of `kwargs` (`dtype`, `revision`,
        `device_map`, `attn_implementation`, ...). The heads take the base's dtype and
        the device of its final norm.

        Raises:
          ValueError: if the folder's heads are not those that its config tells of.
        """
        kwargs.pop("trust_remote_code", None)  # the base needs no code of the folder
        with_info = kwargs.pop("output_loading_info", False)
        where = {name: kwargs[name] for name in WHERE.split() if name in kwargs}
        told = config or AutoConfig.from_pretrained(path, **where)
        base, info = described(told)[0].from_pretrained(
            path, config=config, output_loading_info=True, **kwargs
        )
        model = cls(base.config, base)
        device = model._last_layer_and_norm()[1].weight.device
        device = "cpu" if device.type == "meta" else device  # meta: offloaded
        model.mtp_heads.to(device=device, dtype=base.dtype)
        model.load_state_dict(read_heads(model, path, where), strict=False)
        model.eval()
        return (model, info) if with_info else model

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes the base model, the heads and this file: a folder like the first."""
        if kwargs.get("push_to_hub"):
            raise ValueError("push_to_hub must be False; call model.push_to_hub")
        folder, state = Path(save_directory), state_dict or self.state_dict()
        heads = {n: x for n, x in state.items() if n.startswith("mtp_heads.")}
        base = {n.removeprefix("base."): state[n] for n in state if n not in heads}
        self.base.generation_config = self.generation_config
        self.base.config.auto_map = dict(AUTO_MAP)
        given = base if state_dict else None  # itself, it finds offloaded weights too
        self.base.save_pretrained(folder, is_main_process, given, **kwargs)
        if is_main_process:
            whole = {n: x.contiguous() for n, x in heads.items()}
            save_file(whole, folder / HEADS_FILE, metadata={"format": "pt"})
            (folder / "modeling_wmtp.py").write_bytes(Path(__file__).read_bytes())

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> Any:
        """Logits of all heads, [B, L, K, V]; takes what the base model takes.

        With `labels` [B, L] (as a rule `input_ids`, and -100 where nothing is to be
        predicted) there is a loss too, the mean over all heads' targets,

            loss = sum_{b,l,k} -log softmax(logits[b,l,k])[labels[b, l + 1 + k]] / n

        over the n triples for which `labels[b, l + 1 + k]` exists and is not -100;
        0 if there are none. With `logits_to_keep` L' > 0 all of this is about the
        last L' positions. Nothing is cached here, whatever `use_cache` says.
        """
        return_dict = kwargs.pop("return_dict", None)
        kwargs.pop("use_cache", None)
        if kwargs.pop("past_key_values", None) is not None:
            raise ValueError("past_key_values must be None: the heads keep no cache")
        kwargs.update(input_ids=input_ids, attention_mask=attention_mask)
        kwargs.update(position_ids=position_ids, logits_to_keep=logits_to_keep)
        output, seen = self._run_base(**kwargs)
        heads = self.mtp_heads.values()
        more = [self._head_logits(head, seen, logits_to_keep) for head in heads]
        logits = moved([output.logits, *more], output.logits.device)
        logits_BLKV = torch.stack(logits, dim=2)
        labels = None if labels is None else labels[:, -logits_to_keep:]
        result = CausalLMOutput(
            loss=None if labels is None else mean_nll(logits_BLKV, labels),
            logits=logits_BLKV,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )
        return result.to_tuple() if return_dict is False else result

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Plain decoding with head 0: the base model's `generate`."""
        self.base.generation_config = self.generation_config
        return self.base.generate(*args, **kwargs)

    def get_output_embeddings(self) -> Any:
        return self.base.get_output_embeddings()

    def _last_layer_and_norm(self) -> tuple[Any, Any]:
        _, layers, norm = FAMILIES[self.config.model_type]
        return self.base.get_submodule(layers)[-1], self.base.get_submodule(norm)

    def _run_base(self, **inputs: Any) -> tuple[Any, dict[str, Any]]:
        """The base's output, and what its last layer and its final norm were given."""
        seen: dict[str, Any] = {}

        def see_layer(_: nn.Module, args: tuple, kwargs: dict) -> None:
            seen["args"], seen["kwargs"] = args[1:], kwargs  # mask, positions, ...

        def see_norm(_: nn.Module, args: tuple, output: Tensor) -> None:
            seen["before"], seen["after"] = args[0], output

        layer, norm = self._last_layer_and_norm()
        with (
            layer.register_forward_pre_hook(see_layer, with_kwargs=True),
            norm.register_forward_hook(see_norm),
        ):
            return self.base(use_cache=False, return_dict=True, **inputs), seen

    def _head_logits(self, head: Any, seen: dict, keep: int) -> Tensor:
        """Logits [B, L, V] of a head at the last `keep` positions; 0 keeps all."""
        seen = moved(seen, next(head.parameters()).device)
        unembed = self.get_output_embeddings()
        if self.head_type.before_norm:
            state = head(seen["before"], *seen["args"], **seen["kwargs"])[:, -keep:]
        else:
            state = head(seen["after"][:, -keep:])
        return state if self.head_type.own_unembedding else unembed(state)


def described(config: Any) -> tuple[Any, int, str]:
    """The stock class of a config, K, and the type of heads k >= 1."""
    if config.model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ValueError(f"model_type must be one of {known}; got {config.model_type}")
    told = getattr(config, "mtp_config", None) or {}
    num_heads, head_type = told.get("n_future_tokens"), told.get("head_type")
    if type(num_heads) is not int or num_heads < 2 or head_type not in HEAD_TYPES:
        required = f"n_future_tokens >= 2 and a head_type of {', '.join(HEAD_TYPES)}"
        raise ValueError(f"mtp_config of config.json must have {required}; got {told}")
    return FAMILIES[config.model_type][0], num_heads, head_type


def read_heads(model: Any, path: Any, where: dict[str, Any]) -> dict[str, Tensor]:
    """The heads file of a folder or a hub name, checked against the model's heads."""
    try:
        found = load_file(cached_file(path, HEADS_FILE, **where))
    except (OSError, SafetensorError) as error:
        problem = str(error).splitlines()[0]
        raise ValueError(f"{HEADS_FILE} of {path} cannot be read: {problem}") from error
    state = model.state_dict()
    wanted = {n: x for n, x in state.items() if n.startswith("mtp_heads.")}
    for name in sorted(found.keys() | wanted.keys()):
        want, got = (
            f"of shape {tuple(x[name].shape)}" if name in x else "absent"
            for x in (wanted, found)
        )
        if want != got:
            raise ValueError(f"{HEADS_FILE} of {path}: {name} must be {want}, is {got}")
    return found


def moved(value: Any, device: torch.device) -> Any:
    """The value with every tensor in it on one device; a model may lie on several."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: moved(item, device) for name, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(moved(item, device) for item in value)
    return value


def mean_nll(logits_BLKV: Tensor, labels_BL: Tensor) -> Tensor:
    """The loss of `forward`, in float32."""
    _, L, K, _ = logits_BLKV.shape
    labels_BL = functional.pad(labels_BL.to(logits_BLKV.device), (0, K), value=-100)
    shifted = [labels_BL[:, 1 + k : 1 + k + L] for k in range(K)]
    target = torch.stack(shifted, dim=2).flatten()
    logits = logits_BLKV.flatten(0, 2).float()
    total = functional.cross_entropy(logits, target, ignore_index=-100, reduction="sum")
    return total / (target != -100).sum().clamp(min=1)
