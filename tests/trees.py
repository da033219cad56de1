"""Small random trees of parameters, and how models and their folders are compared."""

import numpy as np
import pytest
import torch
import transformers

from shared.config.fields import HeadsConfig
from shared.config.model import ModelConfig
from shared.data.tokenizer import load_tokenizer
from shared.huggingface.config_json import read_hf_config

NTP = HeadsConfig(count=1)
MODEL = "model.safetensors"
ROTARY = {"family": "llama", "qkv_bias": False, "out_bias": False, "mlp_bias": False}
BIASED = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
SHAPES = {
    "gpt2": {},
    "gpt2-untied": {"tie_embeddings": False},
    "llama": ROTARY | {"num_kv_heads": 2, "head_width": 6},
    "llama-untied": ROTARY | BIASED | {"tie_embeddings": False},
    "qwen2": ROTARY | {"family": "qwen2", "qkv_bias": True, "num_kv_heads": 1},
}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("bytes")


@pytest.fixture(scope="module", autouse=True)
def no_bars():
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


def small(shape):
    """A config whose axes all differ in length; one token more than the tokenizer."""
    sizes = {"num_layers": 2, "width": 16, "num_attention_heads": 4, "ffn_width": 24}
    sizes |= {"max_positions": 32, "vocab_size": 260}
    return ModelConfig(**sizes | SHAPES[shape])


def shapes(cfg, heads, *, value=False):
    """Shapes of the tree, written without the name map that is tested here."""
    D, F, V, n = cfg.width, cfg.F, cfg.vocab_size, cfg.num_layers
    N, M, H, extra = cfg.num_attention_heads, cfg.kv_heads, cfg.H, heads.count - 1
    norm = {"scale": (D,)} if cfg.is_rotary else {"scale": (D,), "bias": (D,)}

    def dense(inner, outer, biased):
        return {"kernel": (inner, outer)} | ({"bias": (outer,)} if biased else {})

    block = {
        "norm1": norm,
        "norm2": norm,
        "attention": {
            "qkv": dense(D, (N + 2 * M) * H, cfg.qkv_bias),
            "out": dense(N * H, D, cfg.out_bias),
        },
        "up": dense(D, F, cfg.mlp_bias),
        "down": dense(F, D, cfg.mlp_bias),
    }
    if cfg.is_rotary:
        block["gate"] = dense(D, F, cfg.mlp_bias)

    def stack(tree, count):
        if isinstance(tree, tuple):
            return (count, *tree)
        return {name: stack(x, count) for name, x in tree.items()}

    trunk = {"embed": (V, D), "blocks": stack(block, n), "norm": norm}
    trunk |= {} if cfg.is_rotary else {"place": (cfg.max_positions, D)}
    trunk |= {} if cfg.tie_embeddings else {"unembed": (V, D)}
    of_heads = {
        "linear": {"unembed": (V, D)},
        "residual": {"inner": (D, D), "outer": (D, D)},
        "medusa": {"kernel": (D, D), "bias": (D,)},
        "block": {"blocks": block, "norms": norm},
    }[heads.type]
    tree = {"trunk": trunk, "heads": stack(of_heads, extra) if extra else {}}
    of_value = {"inner": (D, D // 2), "inner_bias": (D // 2,), "outer": (D // 2,)}
    of_value |= {"mean": (D,), "deviation": (D,)}
    return tree | ({"value": of_value | {"outer_bias": ()}} if value else {})


def random_params(cfg, heads=NTP, *, value=False):
    rng = np.random.default_rng(0)

    def fill(tree):
        if isinstance(tree, tuple):
            return np.asarray(rng.normal(size=tree), np.float32)
        return {name: fill(x) for name, x in tree.items()}

    return fill(shapes(cfg, heads, value=value))


def config_of(folder):
    layer = read_hf_config(folder).layer
    return ModelConfig(**{k.removeprefix("model."): v for k, v in layer.items()})


def flat(tree, path=""):
    found = {}
    for name, x in tree.items():
        found |= flat(x, f"{path}{name}/") if isinstance(x, dict) else {path + name: x}
    return found


def assert_same(tree, right):
    assert tree.keys() == right.keys()
    tree, right = flat(tree), flat(right)
    assert tree.keys() == right.keys()
    for name, x in right.items():
        assert tree[name].dtype == np.float32 and tree[name].shape == x.shape, name
        np.testing.assert_array_equal(tree[name], x, err_msg=name)


def open_stock(folder, kind=transformers.AutoModelForCausalLM):
    """The folder in stock transformers, every tensor of it in its place."""
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    for name in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info[name], (name, info[name])
    return model.eval()


def assert_equal_models(model, right):
    found, states = model.state_dict(), right.state_dict()
    assert found.keys() == states.keys()
    for name, x in states.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], x.float()), name


def assert_close(logits, right):
    # The same numbers at other addresses may be added up in another order.
    torch.testing.assert_close(logits, right, atol=1e-5, rtol=0)


def refuses(call, *parts):
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
