"""The decoder's config: one architecture, whose families differ by fields."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from shared.config.ranges import Checked

Family = Literal["gpt2", "llama", "qwen2"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """The decoder: one architecture, whose families differ by the fields below.

    `gpt2`: LayerNorm, learned positions, an ungated layer. `llama` and `qwen2`:
    RMSNorm, rotary positions, a gated layer; they differ in where biases stand.
    """

    name: Annotated[str, arg(aliases=["--model"])] = "tiny"
    """preset (random weights), Hugging Face folder, or name on the hub"""
    revision: str = ""
    """commit, tag or branch of a name on the hub; empty: its main branch"""
    family: Family = "gpt2"
    """which Hugging Face model type it is read and written as"""
    num_layers: Annotated[int, "in [1, 10000]"] = 4
    """transformer blocks"""
    width: Annotated[int, ">= 1"] = 128
    """D, width of the residual stream"""
    num_attention_heads: Annotated[int, ">= 1"] = 4
    """N, query heads"""
    num_kv_heads: Annotated[int, ">= 0"] = 0
    """key and value heads, each shared by N / num_kv_heads queries; 0 takes N"""
    head_width: Annotated[int, ">= 0"] = 0
    """H, width of an attention head; 0 takes width / N"""
    ffn_width: Annotated[int, ">= 0"] = 0
    """F, inner width of a block's feed-forward layer; 0 takes 4 * width"""
    activation: Literal["gelu_tanh", "gelu", "silu", "relu"] = "gelu_tanh"
    """of the feed-forward layer"""
    qkv_bias: bool = True
    """biases on queries, keys and values"""
    out_bias: bool = True
    """bias on the output of attention"""
    mlp_bias: bool = True
    """biases in the feed-forward layer"""
    scale_by_layer: bool = False
    """gpt2: attention logits of layer i (from 1) are also divided by i (CodeParrot)"""
    max_positions: Annotated[int, ">= 1"] = 512
    """longest document the model is made for; at least data.max_length"""
    rope_theta: Annotated[float, "> 0"] = 10_000.0
    """base of the rotary wave lengths"""
    rope_type: Literal["default", "linear", "llama3"] = "default"
    """how wave lengths are stretched for longer documents"""
    rope_factor: Annotated[float, "> 0"] = 1.0
    """linear, llama3: by how much"""
    rope_low_freq_factor: Annotated[float, "> 0"] = 1.0
    """llama3: waves longer than rope_original_positions over this are stretched"""
    rope_high_freq_factor: Annotated[float, "> 0"] = 4.0
    """llama3: waves shorter than rope_original_positions over this stay"""
    rope_original_positions: Annotated[int, ">= 1"] = 8192
    """llama3: longest document before stretching"""
    vocab_size: Annotated[int, ">= 0"] = 0
    """V; 0 takes the tokenizer's size"""
    tie_embeddings: bool = True
    """the unembedding of head 0 is the token embedding"""
    norm_epsilon: Annotated[float, "> 0"] = 1e-5
    """added to the variance in LayerNorm, to the mean square in RMSNorm"""
    dropout: Annotated[float, "in [0, 1)"] = 0.0
    """on embeddings and both branches of a block (`block` heads too), in [0, 1)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        heads = self.num_attention_heads
        if self.head_width == 0:
            required = f"divisible by model.num_attention_heads = {heads}"
            self.require("width", self.width % heads == 0, required)
        divides = f"0 or a divisor of model.num_attention_heads = {heads}"
        self.require("num_kv_heads", heads % self.kv_heads == 0, divides)
        if self.is_rotary:
            even = f"such that heads have an even width (here {self.H})"
            self.require(
                "head_width" if self.head_width else "width", self.H % 2 == 0, even
            )
            if self.rope_type == "llama3":
                low, high = self.rope_low_freq_factor, self.rope_high_freq_factor
                more = f"more than model.rope_low_freq_factor = {low}"
                self.require("rope_high_freq_factor", high > low, more)
        self._require_family()

    def _require_family(self) -> None:
        """Refuses what the family's Hugging Face model cannot be."""
        heads = self.num_attention_heads
        if self.family == "gpt2":
            whole = "0 or model.num_attention_heads, as in every gpt2"
            self.require("num_kv_heads", self.kv_heads == heads, whole)
            plain = self.H * heads == self.width
            self.require("head_width", plain, "0 or width / N, as in every gpt2")
        else:
            only = "false but for a gpt2"
            self.require("scale_by_layer", not self.scale_by_layer, only)
        if self.family == "llama":
            # `transformers` asks it of a Llama also where head_width is given.
            whole = f"divisible by model.num_attention_heads = {heads}"
            self.require("width", self.width % heads == 0, whole)
            same = "that of model.qkv_bias, as in every llama"
            self.require("out_bias", self.qkv_bias == self.out_bias, same)
            return
        expected = {"qkv_bias": True, "out_bias": False, "mlp_bias": False}
        for name, value in expected.items():
            value = value or self.family == "gpt2"
            required = f"{str(value).lower()} in every {self.family}"
            self.require(name, getattr(self, name) == value, required)

    @property
    def init_deviation(self) -> float:
        """Deviation of random weights: GPT-2's 0.02 at its width of 768, scaled to D.

        A narrower model with 0.02 starts with branches that add next to nothing to the
        residual stream, and takes long to leave that state.
        """
        return 0.02 * (768 / self.width) ** 0.5

    @property
    def branch_deviation(self) -> float:
        """The same for what is added to the residual stream, less in deeper models."""
        return self.init_deviation / (2 * self.num_layers) ** 0.5

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.num_kv_heads or self.num_attention_heads

    @property
    def H(self) -> int:
        """Width of an attention head."""
        return self.head_width or self.width // self.num_attention_heads

    @property
    def F(self) -> int:
        """Inner width of the feed-forward layer."""
        return self.ffn_width or 4 * self.width

    @property
    def is_rotary(self) -> bool:
        """Rotary positions, RMSNorm and a gated layer, against GPT-2's."""
        return self.family != "gpt2"
