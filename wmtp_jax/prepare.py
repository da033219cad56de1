"""Makes a model folder to start from: a base model with new prediction heads.

    python -m wmtp_jax.prepare --model distilgpt2 --heads 4 --head-type linear --out F
    python -m wmtp_jax.prepare --model FOLDER_OR_PRESET --random-init --out F
    python -m wmtp_jax.prepare --model FOLDER --value-head --out F
    python -m wmtp_jax.prepare --model FOLDER --kind reward --out F

The folder has the layout of an export: `config.json` with `mtp_config`, weights, heads,
tokenizer. `--random-init` needs no weights, only a shape. `--value-head` adds the
critic's, so that both trainers start from the same one (their random generators
differ). `--kind reward` gives a sequence classifier with one label, whose last layer is
random: a start for training a reward model, and small enough to try the critic with.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import jax

from shared.algorithms import ALGORITHMS, PLAIN
from shared.config.fields import Config
from shared.config.layers import build
from shared.head_types import HEAD_TYPES
from shared.huggingface.folder import write_model
from shared.run.command_line import model_layer
from shared.run.inputs import read_tokenizer
from shared.run.main import exit_code, home_path
from shared.state.model_source import find_folder
from shared.tracking import console
from wmtp_jax.init_params import init_params, load_params
from wmtp_jax.model import Params
from wmtp_jax.sharding import jax_told


def prepare(cfg: Config, out: Path, *, kind: str, random_init: bool) -> Config:
    """Writes the folder; returns the config with the vocabulary in force.

    Args:
      cfg: of which `model`, `heads`, `data.tokenizer`, `seed` and `algo` are read;
        `critic` gets a value head.
      out: a new or empty folder.
      kind: `causal`, or `reward` (heads k >= 1 are left out).
      random_init: whether all weights are new, not only those of the heads.

    Raises:
      ValueError: if the model has no weights to start from, or the folder is not empty.
    """
    if not random_init and find_folder(cfg) is None:
        raise ValueError(
            f"--model must hold weights, got the preset {cfg.model.name!r}, which is "
            "a shape only (--random-init makes random weights)"
        )
    cfg, tokenizer = read_tokenizer(cfg)
    if kind == "reward":
        if cfg.algorithm.value_head:
            raise ValueError("--value-head must go with --kind causal, got reward")
        cfg = replace(cfg, heads=replace(cfg.heads, count=1, weight=()))
    params = jax.jit(lambda: init_params(cfg))() if random_init else load_params(cfg)
    if kind == "reward":
        params = _with_score(params, cfg)
    write_model(out, jax.device_get(params), cfg.model, cfg.heads, tokenizer, kind=kind)
    return cfg


def _with_score(params: Params, cfg: Config) -> Params:
    """The trunk with a random row that turns its state into a score."""
    trunk = {name: part for name, part in params["trunk"].items() if name != "unembed"}
    key = jax.random.key(cfg.seed)
    score = cfg.model.init_deviation * jax.random.normal(key, (cfg.model.width,))
    return {"trunk": trunk, "score": score}


def _parser() -> argparse.ArgumentParser:
    """Options whose `dest` names a field of the config give that field."""
    parser = argparse.ArgumentParser(
        prog="python -m wmtp_jax.prepare",
        description=(__doc__ or "").splitlines()[0],
        argument_default=argparse.SUPPRESS,
    )
    add, model = parser.add_argument, "preset, Hugging Face folder, or hub name"
    add("--model", required=True, dest="model.name", help=model)
    add("--revision", dest="model.revision", help="commit, tag or branch")
    add("--tokenizer", dest="data.tokenizer", help="folder; default: the model's")
    count = {"dest": "heads.count", "type": int, "default": 4}
    add("--heads", **count, help="K, head 0 included")
    add("--head-type", dest="heads.type", choices=tuple(HEAD_TYPES))
    starts = {"dest": "heads.linear_start", "choices": ("random", "unembedding")}
    add("--linear-start", **starts)
    add("--random-init", action="store_true", default=False, help="new weights")
    critic = next(name for name, row in ALGORITHMS.items() if row.value_head)
    value = {"dest": "algo", "action": "store_const", "const": critic}
    add("--value-head", **value, help=f"a new one too, for --algo {critic}")
    add("--kind", choices=("causal", "reward"), default="causal")
    add("--seed", type=int)
    add("--out", type=home_path, required=True, help="folder to write; must be new")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for bad input."""
    with exit_code([]) as outcome, jax_told():
        given = vars(_parser().parse_args(argv))
        asked = {name: given.pop(name) for name in ("out", "kind", "random_init")}
        layer = model_layer(given["model.name"], given.get("model.revision", ""))
        # Nothing is trained here, so no row has to fit the model.
        layer |= {"data.max_length": max(2, given["heads.count"] + 1)}
        layer |= {"heads.fresh": True, "algo": PLAIN}
        cfg = prepare(build(layer | given), **asked)
        is_reward, model = asked["kind"] == "reward", cfg.model
        heads = "a reward model" if is_reward else f"K = {cfg.heads.count}"
        made = f"{model.family}, {model.num_layers} layers, {heads}: {asked['out']}"
        console.say(made)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
