"""The parameters a run starts from: random, or those of a Hugging Face folder."""

import re
from dataclasses import replace

import torch

from shared.config.fields import Config, HeadsConfig
from shared.state.model_source import stored_params
from wmtp_torch_mps.heads import start_heads
from wmtp_torch_mps.model import WMTP, fill, from_tree, group_of, named

# What adds to the residual stream, in GPT-2's names and in Llama's and Qwen2's.
BRANCH = re.compile(r".*(c_proj|o_proj|down_proj)\.weight")


def load_params(cfg: Config, device: torch.device) -> WMTP:
    """A model before any training, on the device.

    A folder gives the trunk, and, unless `heads.fresh` is set, those of heads k >= 1
    and value head that it has; the rest is random.
    """
    stored = stored_params(cfg)
    model = WMTP(cfg)
    init_params(model)
    if stored is not None:
        held = cfg
        if "heads" not in stored:
            stored["heads"] = {}
            held = replace(cfg, heads=HeadsConfig(count=1))
        fill(model, from_tree(stored, held))
        if held is not cfg:
            start_heads(model)
    return model.to(device)


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
            scales = name.endswith(("weight", "deviation"))
            parameter.fill_(1.0 if scales else 0.0)
        elif re.search(r"(\.|^)outer\.weight$", name):
            parameter.zero_()
        elif name.startswith("value_head."):
            parameter.normal_(0, cfg.model.width**-0.5, generator=generator)
        elif BRANCH.fullmatch(name):
            parameter.normal_(0, cfg.model.branch_deviation, generator=generator)
        else:
            parameter.normal_(0, cfg.model.init_deviation, generator=generator)
    start_heads(model)
