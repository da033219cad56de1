"""How many drafts a model keeps, and what that gains, by drafter and data set.

    python -m wmtp_jax.acceptance --model RUN_OR_FOLDER --data minis
    python -m wmtp_jax.acceptance --model FOLDER --data MBPP_FOLDER HUMANEVAL_FOLDER \
        --drafters none ngram heads both --prompts 100 --tokens 128 --json FILE

Every drafter writes greedily behind the same prompts, one text at a time, in turns.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from shared.config.fields import MachineConfig
from shared.data.prompts import load_prompts
from shared.decoding.prompt_rows import prompt_ids
from shared.decoding.requests import DRAFTERS
from shared.files import write_json
from shared.run.main import check_least, exit_code, home_path
from shared.tracking import console
from shared.tracking.console import Progress
from wmtp_jax import NAME

NOTES = """\
acceptance length: mean over drafts of 1 + the drafted tokens that were kept; the
  model's own (bonus) token is counted. joint: drafts of which 1, 2, ... tokens were
  kept. seconds: of the texts, the passes over their prompts included, compilation not.
  same: texts that are token for token those of the drafter none."""
HEAD_NOTES = """\
agreement: head k's most probable token is the one that the model writes k + 1 places
  on, at every position before a written token. control: the same against the token one
  place further where that is another one: near 0 if heads know their place. joint: the
  heads 1 to k all agree."""


def run(asked: argparse.Namespace) -> None:
    """Loads the model, measures on every data set, writes what was asked for."""
    texts = {source: load_prompts(source, asked.prompts) for source in asked.data}
    from wmtp_jax.decoding import report as measured
    from wmtp_jax.decoding.loaded import load
    from wmtp_jax.sharding import keep_programs

    keep_programs(asked.compiled)
    model = load(asked.model, MachineConfig(dtype=asked.dtype))
    drafters = asked.drafters or measured.drafters_of(model)
    found = {}
    for source, prompts in texts.items():
        encoded = [
            prompt_ids(model.tokenizer, {"prompt": text}, False, f"prompt {i}")
            for i, text in enumerate(prompts, 1)
        ]
        ids = measured.that_fit(encoded, asked.tokens, model.cfg.max_positions)
        if left_out := len(encoded) - len(ids):
            console.say(f"{source}: {left_out} prompts are too long and left out")
        with Progress(len(ids), f"acceptance on {Path(source).name}") as progress:
            found[source] = measured.report(
                model, ids, drafters, tokens=asked.tokens, progress=progress.update
            )
        show(Path(source).name, found[source])
    if asked.json:
        told = {
            source: {
                "drafters": of.drafters,
                "heads": of.heads,
                "heads_at_every_position": of.agreement.length,
            }
            for source, of in found.items()
        }
        asked_for = {"model": asked.model, "tokens": asked.tokens}
        write_json(asked.json, asked_for | {"data": told})


def show(name: str, found: Any) -> None:
    """The two tables of a data set, and what their columns mean."""
    columns = ("drafter", "tokens", "a forward", "drafts", "acceptance length",
               "rate", "joint", "seconds", "speed-up", "same")  # fmt: skip
    rows = [
        (
            row["drafter"],
            row["tokens"],
            round(row["tokens_per_forward"], 2),
            row["drafts"],
            round(row["mean_acceptance_length"], 2),
            f"{row['acceptance_rate']:.0%}",
            shares(row["joint_prefix_rate"]),
            round(row["seconds"], 1),
            round(row["speed_up"], 2),
            f"{row['same_text']}/{row['prompts']}",
        )
        for row in found.drafters
    ]
    console.table(f"{name}: drafters in turns", columns, rows)
    console.say(f"{NOTES}\n")
    columns = ("head", "agreement", "control", "joint", "positions")
    heads = [
        (
            row["head"],
            *(f"{row[x]:.1%}" for x in ("agreement", "control", "joint_prefix_rate")),
            row["positions"],
        )
        for row in found.heads
    ]
    console.table(f"{name}: heads, by teacher forcing", columns, heads)
    console.say(HEAD_NOTES)
    if len(heads) > 1:
        length = f"{found.agreement.length:.2f} tokens a forward"
        console.say(f"  All heads drafting at every position would give {length}.\n")


def shares(rates: list[float]) -> str:
    """Rates as in `61 42 31 %`."""
    return " ".join(f"{100 * rate:.0f}" for rate in rates) + " %" * bool(rates)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}.acceptance", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--model", required=True, help="run, RUN/checkpoints/STEP, folder or hub name")
    add("--data", nargs="+", default=["minis"],
        help="minis, mbpp, humaneval, folders or .jsonl files (minis)")  # fmt: skip
    add("--drafters", nargs="+", choices=DRAFTERS[1:],
        help="who drafts (all that the model can)")  # fmt: skip
    add("--prompts", type=int, default=0, help="first so many of each; 0 takes all (0)")
    add("--tokens", type=int, default=128, help="of a text at most (128)")
    add("--json", type=home_path, help="also write all figures to this file")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--compiled", type=home_path, default=Path("runs/compiled"),
        help="folder of compiled programs (runs/compiled)")  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for bad input."""
    with exit_code([]) as outcome:
        asked = _parser().parse_args(argv)
        check_least(asked, {"prompts": 0, "tokens": 1})
        if asked.json and not asked.json.parent.is_dir():
            raise ValueError(
                f"--json must be in a folder that exists, got {asked.json}"
            )
        from wmtp_jax.sharding import jax_told

        with jax_told():
            run(asked)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
