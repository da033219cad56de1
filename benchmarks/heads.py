"""The kinds of prediction heads side by side: what they learn, draft and cost.

    python -m benchmarks.heads                               # a small model made here
    python -m benchmarks.heads --model FOLDER --data mbpp --seeds 0 1 --ways together

Each kind is trained beside the trunk, beside it after a warm-up of the heads alone, and
alone (`heads.only`): same start, steps, data and seeds; every other argument goes to
`python -m wmtp_jax.train` as it is. Of several seeds the means are shown; seconds are
over the steps of all.

`drafts` is how many tokens a forward pass would give if every pass verified what all
heads say, the model's own counted; `agree` is how often head 1, 2, ... says what the
model then writes, `joint` how often all up to it do (greedy, prompts of the data that
are kept from training; `wmtp_jax/acceptance.py`).
"""

import tempfile
from pathlib import Path
from statistics import mean

from benchmarks.runs import Run, options_parser, print_table, train
from shared.decoding.acceptance import Agreement

KINDS = {
    "linear": ["--head-type", "linear"],
    "linear, copy": ["--head-type", "linear", "--heads.linear-start", "unembedding"],
    "residual": ["--head-type", "residual"],
    "medusa": ["--head-type", "medusa"],
    "block": ["--head-type", "block"],
}
WAYS = {
    "together": [],
    "warm-up": ["--heads.warmup-steps", "{half}"],
    "alone": ["--heads.only"],
}
# Of the small model that is made where none is named, and of the heads on it.
BASE = (
    "--model tiny --heads 1 --algo baseline --data minis --data.max-length 256 "
    "--train.max-steps 300 --train.save-every 300 --train.eval-every 300"
).split()
PACE = (
    "--data minis --data.max-length 256 --optimizer.lr 3e-4 --optimizer.head-lr-scale 4"
).split()


def drafts(run: Path, data: str, prompts: int, tokens: int) -> Agreement:
    """The heads of a run against what its model writes."""
    from shared.config.fields import MachineConfig
    from shared.data.prompts import load_prompts
    from wmtp_jax.decoding.agreement import agreement
    from wmtp_jax.decoding.engine import Engine
    from wmtp_jax.decoding.loaded import load
    from wmtp_jax.decoding.report import write

    model = load(str(run / "model"), MachineConfig(device="cpu"))
    engine = Engine(model, rows=1, drafter="none")
    most = model.cfg.max_positions - tokens
    ids = [model.tokenizer.encode(text)[:most] for text in load_prompts(data, prompts)]
    return agreement(model, [(prompt, write(engine, prompt, tokens)) for prompt in ids])


def row_of(
    kind: str, way: str, runs: list[Run], drafted: list[Agreement]
) -> dict[str, object]:
    """One row of the table: validation nll of each head, drafts kept, cost."""
    heads = runs[0].summary["heads"]
    nll = {
        k: [run.summary["eval_after"][f"eval_nll_head_{k}"] for run in runs]
        for k in range(heads)
    }
    spread = max(max(values) - min(values) for values in nll.values())
    peak = max(run.peak_bytes for run in runs)
    together = Run({}, [row for run in runs for row in run.rows], peak)
    lengths = [found.length for found in drafted]
    rows = [found.rows()[1:] for found in drafted]
    shares = {
        short: " ".join(
            f"{mean(x[name] for x in of):.2f}" for of in zip(*rows, strict=True)
        )
        for short, name in (("agree", "agreement"), ("joint", "joint_prefix_rate"))
    }
    return {
        "heads": kind,
        "trained": way,
        **{f"nll {k}": round(mean(values), 3) for k, values in nll.items()},
        "mean 1..": round(mean(mean(nll[k]) for k in range(1, heads)), 3),
        "spread": round(spread, 3),
        "drafts": round(mean(lengths), 3),
        "least": round(min(lengths), 3),
        "most": round(max(lengths), 3),
        **shares,
        "M parameters": round(runs[0].summary["parameters"]["heads"] / 1e6, 2),
        **together.times(),
    }


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--data", default="minis", help="trained on; its test prompts")
    parser.add_argument("--model", default="", help="folder; default: made here")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=48, help="written to a prompt")
    own, rest = parser.parse_known_args()
    rows = []
    with tempfile.TemporaryDirectory() as output_dir:
        runs_in = Path(output_dir)
        if not own.model:
            train(BASE, "base", output_dir)
        model = own.model or str(runs_in / "base" / "model")
        pace = ["--model", model, *([] if own.model else PACE), "--heads", "4"]
        pace += ["--data", own.data]
        pace += ["--train.max-steps", str(own.steps), "--train.epochs", "100"]
        pace += ["--train.eval-every", str(own.steps)]
        for way in own.ways:
            words = [word.format(half=own.steps // 2) for word in WAYS[way]]
            for kind in own.kinds:
                runs, drafted = [], []
                for seed in own.seeds:
                    name = f"{kind.replace(', ', '-')}-{way}-{seed}"
                    command = [*pace, *KINDS[kind], *words, "--seed", str(seed)]
                    runs.append(train([*command, *rest], name, output_dir))
                    drafted.append(
                        drafts(runs_in / name, own.data, own.prompts, own.tokens)
                    )
                rows.append(row_of(kind, way, runs, drafted))
    print_table(rows, own.json)


if __name__ == "__main__":
    main()
