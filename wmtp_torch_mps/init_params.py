"""The parameters a run starts from: random, or those of a Hugging Face folder."""

import re
from dataclasses import replace

import torch

from shared.config.fields import Config
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.folder import read_model
from shared.huggingface.tree import Params
from shared.state.model_source import check_folder, find_folder, takes_heads
from wmtp_torch_mps.heads import start_heads
from wmtp_torch_mps.model import WMTP, fill, from_tree, group_of, named

# What adds to the residual stream, in GPT-2's names and in Llama's and Qwen2's.
BRANCH = re.compile(r".*(c_proj|o_proj|down_proj)\.weight")


def load_params(cfg: Config, device: torch.device) -> WMTP:
    """A model before any training, on the device.

    A folder gives the trunk, and, unless `heads.fresh` is set, those of heads k >= 1
    and value head that it has; the rest is random.
    """
    folder = find_folder(cfg)
    model = WMTP(cfg)
    init_params(model)
    if folder is not None:
        check_folder(cfg, folder)
        has_heads = takes_heads(cfg, read_hf_config(folder))
        wants_values = cfg.algorithm.value_head and not cfg.heads.fresh
        extras = has_heads or wants_values
        stored = read_model(folder, cfg.model, extras=extras)
        _fill_from(model, stored, has_heads)
        if not has_heads:
            start_heads(model)
    return model.to(device)


def _fill_from(model: WMTP, stored: Params, has_heads: bool) -> None:
    """Puts what a folder holds into the model; head by head, as it may hold more."""
    cfg = model.cfg
    wanted = {"trunk": stored["trunk"], "heads": {}}
    if has_heads:
        extra = cfg.heads.count - 1
        wanted["heads"] = _first(stored["heads"], extra)
    if cfg.algorithm.value_head and "value" in stored:
        wanted["value"] = stored["value"]
    held = cfg if has_heads else _one_head(cfg)
    fill(model, from_tree(wanted, held))


def _first(tree: Params, extra: int) -> Params:
    return {
        name: _first(x, extra) if isinstance(x, dict) else x[:extra]
        for name, x in tree.items()
    }


def _one_head(cfg: Config) -> Config:
    return replace(cfg, heads=replace(cfg.heads, count=1, weight=()))


@torch.no_grad()
def init_params(model: WMTP) -> None:
    """Random weights on the CPU, from `cfg.seed` alone.

    Deviations as in `wmtp_jax`, from another generator: for the same start in both,
    make a folder with `prepare`. The trunk depends on the seed alone, whatever the
    heads are, so that algorithms and head types are compared from the same start.
    """
    cfg = model.cfg
    generators = {
        group: torch.Generator().manual_seed(3 * cfg.seed + number)
        for number, group in enumerate(("trunk", "heads", "value"))
    }
    for name, parameter in named(model).items():
        generator = generators[group_of(name)]
        if parameter.ndim == 1:
            norm = name.endswith("weight")
            parameter.fill_(1.0 if norm else 0.0)
        elif re.search(r"(\.|^)outer\.weight$", name):
            parameter.zero_()
        elif name.startswith("value_head."):
            parameter.normal_(0, cfg.model.width**-0.5, generator=generator)
        elif BRANCH.fullmatch(name):
            parameter.normal_(0, cfg.model.branch_deviation, generator=generator)
        else:
            parameter.normal_(0, cfg.model.init_deviation, generator=generator)
    start_heads(model)
