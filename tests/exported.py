"""Folders of stock models with random heads beside them, and how they are opened."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, dynamic_module_utils

from shared import huggingface
from shared.head_types import HEAD_TYPES
from tests import hf_models

TEMPLATE = Path(huggingface.__file__).parent / "templates" / "modeling_wmtp.py"
HEADS_FILE = "mtp_heads.safetensors"
ONE_PER_FAMILY = ["gpt2-codeparrot", "llama-tied-grouped", "qwen2-untied"]
TYPES = list(HEAD_TYPES)
K, L, V, D = 3, 9, 61, 24
LAYERS = {"gpt2": "transformer.h", "llama": "model.layers", "qwen2": "model.layers"}
NORM = {"gpt2": "transformer.ln_f", "llama": "model.norm", "qwen2": "model.norm"}
FOLDERS: dict[tuple[str, str], Path] = {}  # what `made` has made


@pytest.fixture(scope="module", autouse=True)
def modules_cache(tmp_path_factory):
    """Code of folders is copied into a cache before it runs: here, not at home.

    One thread computes: models as small as these only wait for more.
    """
    cache, threads = tmp_path_factory.mktemp("modules"), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(cache))
        patch.setattr(sys, "path", [*sys.path])
        before = set(sys.modules)
        yield cache
        for name in set(sys.modules) - before:
            if name.startswith("transformers_modules"):
                del sys.modules[name]
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders by case and head type, each made once per process and only read."""

    def make(case: str, head_type: str) -> Path:
        if (case, head_type) not in FOLDERS:
            folder = tmp_path_factory.mktemp(f"{case}-{head_type}")
            FOLDERS[case, head_type] = make_folder(folder, case, head_type)
        return FOLDERS[case, head_type]

    return make


def make_folder(folder: Path, case: str, head_type: str) -> Path:
    """A stock model saved by `transformers`, with random heads beside it."""
    model = stock_model(case)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["mtp_config"] = {"n_future_tokens": K, "head_type": head_type}
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_wmtp.WMTPForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(random_heads(model, head_type), folder / HEADS_FILE)
    (folder / "modeling_wmtp.py").write_bytes(TEMPLATE.read_bytes())
    return folder


def stock_model(case: str):
    """Its norms add to the variance what no default does."""
    epsilon = "layer_norm_epsilon" if case.startswith("gpt2") else "rms_norm_eps"
    return hf_models.make(case, **{epsilon: 0.05})


def random_heads(model, head_type: str) -> dict[str, torch.Tensor]:
    """Random tensors of heads 1 .. K-1 under the names of the file."""
    layer, norm = last_layer(model), model.get_submodule(NORM[model.config.model_type])
    shapes = {
        "linear": {"weight": (V, D)},
        "residual": {"inner.weight": (D, D), "outer.weight": (D, D)},
        "medusa": {"outer.weight": (D, D), "outer.bias": (D,)},
        "block": {f"block.{name}": x.shape for name, x in layer.named_parameters()}
        | {f"norm.{name}": x.shape for name, x in norm.named_parameters()},
    }[head_type]
    generator = torch.Generator().manual_seed(7)
    return {
        f"mtp_heads.{k}.{name}": 0.3 * torch.randn(shape, generator=generator)
        for k in range(1, K)
        for name, shape in shapes.items()
    }


def last_layer(model):
    return model.get_submodule(LAYERS[model.config.model_type])[-1]


def open_heads(folder: Path, **kwargs):
    return AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, **kwargs
    )


def tokens(seed=0, rows=2) -> torch.Tensor:
    return torch.randint(2, V, (rows, L), generator=torch.manual_seed(seed))


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask and positions of two rows, the second of which is padded by 3."""
    mask_BL = torch.ones(2, L, dtype=torch.long)
    if side == "left":
        mask_BL[1, :3] = 0
    elif side == "right":
        mask_BL[1, -3:] = 0
    return mask_BL, (mask_BL.cumsum(1) - 1).clamp(min=0)
