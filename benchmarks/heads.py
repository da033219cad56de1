"""The kinds of prediction heads side by side: what they learn, draft and cost.

    python -m benchmarks.heads                               # a small model made here
    python -m benchmarks.heads --model FOLDER --data mbpp --seeds 0 1 --ways together

Each kind is trained beside the trunk, beside it after a warm-up of the heads alone, and
alone (`heads.only`): same start, steps, data and seeds; every other argument goes to
`python -m wmtp_jax.train` as it is. Of several seeds the means are shown; seconds are
over the steps of all.

`drafts` is the mean acceptance length of the trained model's own heads, the model's
token counted, when each pass verifies what all heads draft (greedy, prompts of the
validation split); `kept` is how often at least the first 1, 2, ... tokens were kept.
"""

import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.runs import Run, options_parser, print_table, train

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


def drafts(run: Path, prompts: int, tokens: int) -> dict[str, Any]:
    """What the engine counts when every pass verifies what all heads draft."""
    from shared.config.fields import MachineConfig
    from shared.config.layers import load_config
    from shared.data.documents import load_examples
    from shared.decoding.policy import Policy
    from shared.decoding.requests import Request, Sampling
    from wmtp_jax.decoding.engine import Engine
    from wmtp_jax.decoding.loaded import load

    class Always(Policy):
        """Drafts whether it pays or not."""

        def choose(self, drafts: list[tuple[str, int]], heads: bool = False) -> int:
            return 4 if any(length for _, length in drafts) else 1

        def heads_pay(self, count: int) -> bool:
            return True

    model = load(str(run / "model"), MachineConfig(device="cpu"))
    engine = Engine(model, rows=1, drafter="heads")
    engine.drafting.policies[1] = Always()
    examples = load_examples(load_config(run / "config.yaml").data)
    for row in examples["validation"][:prompts]:
        ids = tuple(model.tokenizer.encode(row["prompt"]))
        most = Sampling(max_tokens=tokens)
        engine.submit(Request(prompt=ids[: model.cfg.max_positions - tokens],
                              sampling=most))  # fmt: skip
    while engine.busy:
        engine.step()
    return engine.acceptance.summary()


def row_of(
    kind: str, way: str, runs: list[Run], drafted: list[dict[str, Any]]
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
    lengths = [found["mean_acceptance_length"] for found in drafted]
    kept = [found["joint_prefix_rate"] for found in drafted]
    return {
        "heads": kind,
        "trained": way,
        **{f"nll {k}": round(mean(values), 3) for k, values in nll.items()},
        "mean 1..": round(mean(mean(nll[k]) for k in range(1, heads)), 3),
        "spread": round(spread, 3),
        "drafts": round(mean(lengths), 3),
        "least": round(min(lengths), 3),
        "most": round(max(lengths), 3),
        "kept": " ".join(f"{mean(x):.2f}" for x in zip(*kept, strict=False)),
        "M parameters": round(runs[0].summary["parameters"]["heads"] / 1e6, 2),
        **together.times(),
    }


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", type=int, default=60)
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
                    drafted.append(drafts(runs_in / name, own.prompts, own.tokens))
                rows.append(row_of(kind, way, runs, drafted))
    print_table(rows, own.json)


if __name__ == "__main__":
    main()
