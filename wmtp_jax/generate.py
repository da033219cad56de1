"""Writes text with a model, drafting tokens where that pays.

    python -m wmtp_jax.generate --model RUN_OR_FOLDER --prompt "def add(a, b):"
    python -m wmtp_jax.generate --model FOLDER --prompts FILE.jsonl --to OUT.jsonl

A line of FILE.jsonl has `prompt`, or `messages` with --chat; its other keys are kept.
A line of the output has them too, and `completions`, a list of `text`, `finish` and
`tokens` (and `logprobs` with --logprobs). Stopped, the same command goes on with the
lines that are missing.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from shared.config.fields import MachineConfig
from shared.decoding.kept_lines import KeptLines
from shared.decoding.prompt_rows import prompt_ids, read_prompts
from shared.decoding.requests import DRAFTERS, Piece, Request, Sampling
from shared.run.main import check_least, exit_code, home_path
from shared.tracking import console
from shared.tracking.console import Progress
from wmtp_jax import NAME


def answers(
    engine: Any, requests: Iterable[Request], stream: bool
) -> Iterator[list[dict]]:
    """The completions of each request, in order, as soon as all before it are whole.

    A request is asked for when the engine has room for it.
    """
    coming, told = iter(requests), 0
    numbers: dict[int, int] = {}
    found: list[list[dict]] = []
    left: list[int] = []
    while True:
        while engine.has_room and (request := next(coming, None)) is not None:
            numbers[engine.submit(request)] = len(found)
            found.append([_empty(request) for _ in range(request.samples)])
            left.append(request.samples)
        if told == len(found):
            return
        for piece in engine.step():
            number = numbers[piece.request]
            _add(found[number][piece.sample], piece)
            if stream and piece.text:
                console.say(piece.text, end="")
            left[number] -= bool(piece.finish)
        while told < len(found) and left[told] == 0:
            yield found[told]
            told += 1


def _empty(request: Request) -> dict[str, Any]:
    made: dict[str, Any] = {"text": "", "finish": "", "tokens": []}
    return made | ({"logprobs": []} if request.logprobs is not None else {})


def _add(completion: dict[str, Any], piece: Piece) -> None:
    completion["text"] += piece.text
    completion["tokens"] += piece.tokens
    completion["finish"] = piece.finish
    if "logprobs" in completion:
        completion["logprobs"] += piece.logprobs


def run(asked: argparse.Namespace) -> None:
    """Loads the model, decodes every prompt, writes what was asked for."""
    sampling = Sampling(**{f.name: getattr(asked, f.name) for f in fields(Sampling)})
    rows = [{"prompt": text} for text in asked.prompt]
    if asked.prompts:
        rows += read_prompts(asked.prompts)
    kept = KeptLines(asked.to, _identity(asked, rows)) if asked.to else None
    from wmtp_jax.decoding.engine import Engine
    from wmtp_jax.decoding.loaded import load
    from wmtp_jax.sharding import keep_programs

    machine = MachineConfig(dtype=asked.dtype)
    keep_programs(asked.compiled)
    model = load(asked.model, machine, heads=asked.drafter not in ("none", "ngram"))
    engine = Engine(model, rows=asked.rows, drafter=asked.drafter)
    requests = []
    for number, row in enumerate(rows, 1):
        ids = prompt_ids(model.tokenizer, row, asked.chat, f"prompt {number}")
        logprobs = 0 if asked.logprobs else None
        requests.append(
            Request(
                prompt=tuple(ids), samples=asked.n, sampling=sampling, logprobs=logprobs
            )
        )
    if kept is not None:
        _write(engine, rows, requests, kept)
    elif len(requests) == asked.n == 1:
        (((completion,),),) = [list(answers(engine, requests, asked.stream))]
        console.say("" if asked.stream else completion["text"])
    else:
        for row, of in zip(rows, answers(engine, requests, False), strict=True):
            console.say(json.dumps(row | {"completions": of}, ensure_ascii=False))
    if asked.report:
        console.say(json.dumps(engine.acceptance.summary()), sys.stderr)


def _write(
    engine: Any, rows: list[dict], requests: list[Request], kept: KeptLines
) -> None:
    """Writes what an earlier call has not."""
    done = len(kept.lines)
    with Progress(len(rows), "generate", start=done, unit="prompt") as progress:
        found = answers(engine, requests[done:], False)
        for row, completions in zip(rows[done:], found, strict=True):
            kept.add(row | {"completions": completions})
            progress.update(len(kept.lines))
    kept.finish()


def _identity(asked: argparse.Namespace, rows: list[dict]) -> dict[str, Any]:
    """What decides the lines of the output."""
    own = {
        name: value
        for name, value in vars(asked).items()
        if name not in ("to", "prompts", "compiled", "report", "rows", "stream")
    }
    text = json.dumps(rows, sort_keys=True).encode()
    return own | {"prompts": hashlib.sha256(text).hexdigest()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}.generate", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--model", required=True, help="run, RUN/checkpoints/STEP, folder or hub name")
    add("--prompt", action="append", default=[], help="a text; may be given often")
    add("--prompts", type=home_path, help="JSON lines with `prompt` or `messages`")
    add("--to", type=home_path, help="file to write; must be new")
    add("--chat", action="store_true", help="lay prompts out by the chat template")
    add("--stream", action="store_true", help="show one prompt's text as it comes")
    add("--max-tokens", type=int, default=256, help="of a sample at most (256)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    add("--top-k", type=int, default=0, help="only so many of the most probable (all)")
    add("--top-p", type=float, default=1.0,
        help="the fewest tokens that have this share together (1)")  # fmt: skip
    add("--min-p", type=float, default=0.0,
        help="only tokens with this share of the most probable one's (0)")  # fmt: skip
    add("--seed", type=int, default=0, help="of the noise tokens are drawn with (0)")
    add("--stop", action="append", default=[], help="text before which a sample ends")
    add("--ignore-eos", action="store_true", help="go on after ends of text")
    add("--n", type=int, default=1, help="samples of each prompt (1)")
    add("--logprobs", action="store_true", help="tell each token's log-probability")
    add("--drafter", choices=DRAFTERS, default="auto", help="who drafts tokens (auto)")
    add("--rows", type=int, default=8, help="texts that are written at once (8)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--compiled", type=home_path, default=Path("runs/compiled"),
        help="folder of compiled programs (runs/compiled)")  # fmt: skip
    add("--report", action="store_true", help="tell how many drafts were kept")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for bad input."""
    with exit_code([]) as outcome:
        asked = _parser().parse_args(argv)
        asked.stop = tuple(asked.stop)
        if not asked.prompt and not asked.prompts:
            raise ValueError("--prompt or --prompts must be given, got neither")
        check_least(asked, {"n": 1, "rows": 1})
        from wmtp_jax.sharding import jax_told

        with jax_told():
            run(asked)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
