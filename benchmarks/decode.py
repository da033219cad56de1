"""Greedy decoding of ours and of peers, and the bound that memory sets.

    python -m benchmarks.decode --model FOLDER --data MBPP_FOLDER
    python -m benchmarks.decode --model FOLDER --data HUMANEVAL_FOLDER --memory \
        --batch 1 --drafters ngram heads both

All write the same number of tokens behind the same prompts, ends of text ignored, in
turns. `tokens/s` has the passes over the prompts in it; `of the bound` is of decoding
alone: the bytes that a step reads at the rate at which this machine reads, measured in
the same rounds. A turn is one batch, or `--prompts` one after the other at batch 1.
Everything is compiled before, by the turns of all rounds themselves. With `--memory`
each side runs again in a process of its own, whose peak is taken.
"""

import argparse
import statistics
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from benchmarks import bandwidth, decoders
from benchmarks.runs import options_parser, print_table
from benchmarks.timing import Times, rates, ratio, spread, take_turns
from shared.config.fields import MachineConfig
from shared.data.prompts import load_prompts
from shared.data.tokenizer import load_tokenizer
from shared.run.report import peak_of_process

AIMS = {1: 2.5, 16: 1.5}  # times transformers, by batch
VERIFY, BOUND, DRAFTED = 1.3, 0.7, 1.4  # pass of 4 over 1; of the bound; over plain
PEER = "transformers"
Side = tuple[str, int]  # `ours`, `transformers`, `llama.cpp` or a drafter; the batch


class Turns:
    """The turns of one side: each takes the next prompts.

    Attributes:
      texts: what was written, by number of the prompt.
    """

    def __init__(
        self, write: decoders.Write, prompts: list[list[int]], size: int
    ) -> None:
        self.write, self.prompts, self.size = write, prompts, size
        self.number = 0
        self.texts: dict[int, list[int]] = {}
        self.per_token: list[float] = []

    def __call__(self) -> int:
        first, count = self.number * self.size, len(self.prompts)
        taken = [(first + i) % count for i in range(self.size)]
        found = self.write([self.prompts[i] for i in taken])
        self.number += 1
        self.texts |= dict(zip(taken, found, strict=True))
        if isinstance(self.write, decoders.Ours):
            self.per_token.append(self.write.per_token())
        return sum(map(len, found))

    def rewind(self) -> None:
        """Begins again: what was done so far has compiled."""
        self.number = 0
        self.per_token.clear()
        if isinstance(self.write, decoders.Ours):
            from shared.decoding.acceptance import Acceptance

            self.write.engine.acceptance = Acceptance()


class Bench:
    """What was asked for, and the models that sides share."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.held = asked, {}
        tokenizer = load_tokenizer(asked.model, "the tokenizer of --model")
        largest = max(asked.prompts, *asked.batch)
        texts = load_prompts(asked.data, (asked.rounds + 1) * largest)
        self.prompts = [list(tokenizer.encode(text)) for text in texts]

    @property
    def model(self) -> Any:
        """Loaded when it is asked for first: not where a peer is alone."""
        from wmtp_jax.decoding.loaded import load

        if "jax" not in self.held:
            self.held["jax"] = load(self.asked.model, MachineConfig())
        return self.held["jax"]

    def sides(self) -> list[Side]:
        """All that are measured; drafting is for one text at a time."""
        from wmtp_jax.decoding.report import drafters_of

        drafters = self.asked.drafters
        if drafters is None:
            drafters = drafters_of(self.model)[1:]
        found = [(name, B) for B in self.asked.batch for name in ("ours", PEER)]
        if 1 in self.asked.batch:
            found += [("llama.cpp", 1)] * bool(self.asked.gguf)
            found += [(name, 1) for name in drafters]
        return found

    def places(self) -> int:
        """Of the cache, for a text of the median length."""
        from wmtp_jax.decoding.programs import places_for

        middle = statistics.median(map(len, self.prompts))
        return places_for(int(middle) + self.asked.tokens)

    def turns(self, side: Side) -> Turns:
        """The side's turns, all of whose programs are compiled."""
        (name, batch), asked = side, self.asked
        size = asked.prompts if batch == 1 else batch
        write: decoders.Write
        if name == PEER:
            write = decoders.theirs(asked.model, batch, asked.tokens, self.held)
        elif name == "llama.cpp":
            write = decoders.llama_cpp(asked.gguf, asked.tokens)
        else:
            drafter = "none" if name == "ours" else name
            write = decoders.Ours(self.model, batch, drafter, asked.tokens)
        made = Turns(write, self.prompts, size)
        if isinstance(write, decoders.Ours):
            self._compile(write, made)
        return made

    def _compile(self, ours: decoders.Ours, turns: Turns) -> None:
        from wmtp_jax.decoding.report import calibrate

        calibrate(ours.engine, self.prompts, self.asked.tokens)
        for _ in range(self.asked.rounds + 1):  # one more warms up
            turns()
        turns.rewind()


def main() -> None:
    asked = _asked()
    bench = Bench(asked)
    if asked.alone:
        name, batch = asked.alone
        bench.turns((name, int(batch)))()
        print(peak_of_process())
        return
    made = {side: bench.turns(side) for side in bench.sides()}
    readers = bandwidth.readers()
    counted: dict[Any, list[Any]] = {}
    times = take_turns({**readers, **made}, rounds=asked.rounds, counted=counted)
    seconds_of_byte = list(map(min, zip(*(counted[x] for x in readers), strict=True)))
    table = rows_of(bench, made, times, counted)
    bound = share_of_bound(bench, made, seconds_of_byte)
    if asked.memory:
        for row in table:
            row["peak GiB"] = peak_alone(row["side"], row["batch"])
    passes = pass_rows(bench)
    print(f"{asked.tokens} tokens behind each prompt of {len(bench.prompts)}\n")
    print_table(table, asked.json)
    rate = 1e-9 / statistics.median(seconds_of_byte)
    weights = bandwidth.step_bytes(bench.model, 0) / 1e6
    print(f"\nmemory is read at {rate:.1f} GB/s; weights {weights:.0f} MB\n")
    print_table(passes, None)
    print(*verdicts(table, passes, bound), sep="\n")


def _asked() -> argparse.Namespace:
    parser = options_parser(__doc__ or "")
    add = parser.add_argument
    add("--model", required=True, help="a folder that both open")
    add("--data", default="minis", help="minis, mbpp, humaneval, folder or file")
    add("--batch", nargs="+", type=int, default=[1, 16])
    add("--tokens", type=int, default=64, help="behind each prompt")
    add("--prompts", type=int, default=4, help="of a turn at batch 1")
    add("--rounds", type=int, default=5)
    add("--drafters", nargs="*", choices=("ngram", "heads", "both"))
    add("--gguf", default="", help="the model for llama.cpp, if it is installed")
    add("--memory", action="store_true", help="peaks, each alone")
    add("--alone", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.gguf and find_spec("llama_cpp") is None:
        parser.error("--gguf needs the package llama-cpp-python, which is not here")
    return asked


def rows_of(
    bench: Bench, made: dict[Side, Turns], times: Times, counted: dict[Any, list[Any]]
) -> list[dict[str, Any]]:
    """The table of sides; ratios are those of neighbours in time."""
    speeds: Any = rates({x: times[x] for x in made}, counted)
    right: dict[int, list[int]] = {}
    for side in made:
        if side[0] == PEER:
            right = made[side].texts | right
    table = []
    for side, turns in made.items():
        name, batch = side
        row: dict[str, Any] = {"side": name, "batch": batch}
        row["tokens/s"] = round(statistics.median(speeds[side]), 1)
        row |= spread(times[side])
        row["times transformers"] = round(ratio(speeds, side, (PEER, batch)), 2)
        row["times ours"] = round(ratio(speeds, side, ("ours", batch)), 2)
        row["tokens a forward"] = "-"
        if isinstance(turns.write, decoders.Ours):
            summary = turns.write.engine.acceptance.summary()
            row["tokens a forward"] = round(summary["tokens_per_forward"], 2)
        same = [right[i] == text for i, text in turns.texts.items() if i in right]
        row["same text"] = f"{sum(same)}/{len(same)}"
        table.append(row)
    return table


def share_of_bound(
    bench: Bench, made: dict[Side, Turns], seconds_of_byte: list[float]
) -> float | None:
    """Of plain decoding at batch 1: bytes of a step at the rate of their round."""
    if ("ours", 1) not in made:
        return None
    size = bandwidth.step_bytes(bench.model, bench.places())
    per_token = made["ours", 1].per_token[-len(seconds_of_byte) :]
    pairs = zip(seconds_of_byte, per_token, strict=True)
    return statistics.median(size * byte / token for byte, token in pairs)


def pass_rows(bench: Bench) -> list[dict[str, Any]]:
    """Seconds of a pass over 1, 4 and 8 tokens of one row, and over that of one."""
    from wmtp_jax.decoding.engine import Engine

    drafter = "heads" if bench.model.heads.count > 1 else "ngram"
    engine = Engine(bench.model, rows=1, drafter=drafter)
    found = [engine.calibrate(bench.places()) for _ in range(bench.asked.rounds)]
    rows = []
    for size in found[0]:
        seconds = [of[size] for of in found]
        over = statistics.median(of[size] / of[1] for of in found)
        row = {
            "tokens of a pass": size,
            "ms": round(1e3 * statistics.median(seconds), 2),
        }
        row |= {
            "min": round(1e3 * min(seconds), 2),
            "max": round(1e3 * max(seconds), 2),
        }
        row |= {"over one": round(over, 2)}
        if drafter == "heads":
            policy = engine.drafting.policy(1)
            with_heads = policy.cost(size, True) / policy.cost(size)
            row |= {"heads drafting, over without": round(with_heads, 2)}
        rows.append(row)
    return rows


def peak_alone(name: str, batch: int) -> float:
    """GiB that a process of its own holds at most over its warm-up and one turn."""
    options = [x for x in sys.argv[1:] if x != "--memory"]
    command = [sys.executable, "-m", "benchmarks.decode", *options, "--rounds", "1"]
    command += ["--alone", name, str(batch)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed alone")
    return round(int(done.stdout.split()[-1]) / 1024**3, 2)


def verdicts(
    table: list[dict[str, Any]], passes: list[dict[str, Any]], bound: float | None
) -> list[str]:
    """What was aimed at, and what it is."""
    by = {(row["side"], row["batch"]): row for row in table}
    lines = [""]
    for batch, aim in AIMS.items():
        if ("ours", batch) in by:
            times = by["ours", batch]["times transformers"]
            lines.append(f"batch {batch}: {times} times transformers (aim {aim})")
    for row in passes:
        if row["tokens of a pass"] == 4:
            lines.append(f"pass of 4 over 1: {row['over one']} (aim {VERIFY})")
    if bound is not None:
        lines.append(f"of the memory bound: {bound:.0%} (aim {BOUND:.0%})")
    known = ("ours", PEER, "llama.cpp")
    drafted = [row for row in table if row["side"] not in known]
    if drafted:
        best = max(drafted, key=lambda row: row["times ours"])
        times = best["times ours"]
        lines.append(
            f"best drafter: {best['side']}, {times} times ours (aim {DRAFTED})"
        )
    return lines


if __name__ == "__main__":
    main()
