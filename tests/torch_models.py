"""Models of the torch trainer with random parameters, for the configs of `minis.py`."""

from functools import cache

import numpy as np

from shared.config.fields import Config
from shared.huggingface.tree import from_tensors
from tests.minis import config
from wmtp_torch_mps.init_params import init_params
from wmtp_torch_mps.model import WMTP, by_name, fill, from_tree, named


@cache
def start(head_type: str, value: bool, family: str = "gpt2"):
    """Random parameters as NumPy, none of them at 0 or 1, where a swap would hide."""
    cfg = config("critic" if value else "baseline", head_type, "uniform", family=family)
    model = WMTP(cfg)
    init_params(model)
    rng = np.random.default_rng(1)

    def moved(tree):
        if isinstance(tree, dict):
            return {name: moved(tree[name]) for name in sorted(tree)}
        return tree + 0.05 * rng.normal(size=tree.shape).astype(np.float32)

    parts = ("value",) if value else ()
    arrays = by_name(named(model))
    return moved(from_tensors(arrays, cfg.model, cfg.heads, parts=parts))


def start_of(cfg: Config):
    """The parameters that a config starts from here."""
    return start(cfg.heads.type, cfg.algo == "critic", cfg.model.family)


def torch_model(cfg: Config, params, device: str = "cpu") -> WMTP:
    """The torch trainer's model with these parameters."""
    model = WMTP(cfg)
    fill(model, from_tree(params, cfg))
    if cfg.machine.dtype == "float64":
        model.double()
    return model.to(device)
