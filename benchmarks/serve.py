"""Many requests at once against `serve`, with clients that go and bodies that are bad.

    python -m benchmarks.serve --model FOLDER
    python -m benchmarks.serve --model FOLDER --requests 100 --at-once 4 --rows 4

What the engine alone says of each prompt comes first, one after the other. Then a
server in a process of its own is asked, on 127.0.0.1. Its answers must be those, and
what it holds before and after (files, threads, samples) the same.
"""

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.runs import options_parser, print_table
from shared.config.fields import DataConfig, MachineConfig
from shared.data.documents import load_examples

PATH = "/v1/completions"
JSON = {"Content-Type": "application/json"}
# Of ten requests: whole and streamed answers, drawn ones, clients that go, bad bodies.
MIX = ("answer",) * 4 + ("stream",) * 2 + ("drawn",) + ("leave",) * 2 + ("bad",)
BAD: tuple[tuple[bytes, int], ...] = (
    (b"{", 400),
    (b"[]", 400),
    (b'{"prompt": [[]]}', 400),
    (b'{"prompt": "a", "max_tokens": 10000000}', 400),
    (b'{"prompt": "a", "logit_bias": {"1": 1}}', 400),
    (b'{"prompt": "a", "temperature": NaN}', 400),
    (b'{"prompt": "a", "model": "another"}', 404),
    (b" " * (2**22 + 1), 413),
)


@dataclass(frozen=True)
class Question:
    """One request, and what its answer must be."""

    kind: str
    body: bytes
    right: tuple[str, ...] = ()
    status: int = 200


@dataclass(frozen=True)
class Outcome:
    """How a request was answered: `wrong` says what is, if anything is."""

    kind: str
    seconds: float
    first: float
    tokens: int = 0
    wrong: str = ""


def alone(engine: Any, prompts: Sequence[str], most: int) -> dict[str, list[Any]]:
    """Greedy and drawn answers of an engine to one prompt after the other."""
    from shared.decoding.requests import Request, Sampling

    settings = {
        "greedy": Sampling(max_tokens=most),
        "drawn": Sampling(max_tokens=most, temperature=1.0, seed=7),
    }
    found: dict[str, list[Any]] = {name: [] for name in settings}
    for name, sampling in settings.items():
        for prompt in prompts:
            samples = 1 if name == "greedy" else 2
            ids = tuple(engine.tokenizer.encode(prompt))
            engine.submit(Request(prompt=ids, sampling=sampling, samples=samples))
            texts = [""] * samples
            while engine.busy:
                for piece in engine.step():
                    texts[piece.sample] += piece.text
            found[name].append(tuple(texts))
    return found


def questions(
    prompts: Sequence[str], right: dict[str, list[Any]], most: int, count: int
) -> list[Question]:
    """So many of the mix, in an order that is random and always the same."""
    noise = random.Random(0)
    made = []
    for i in range(count):
        kind, at = MIX[i % len(MIX)], noise.randrange(len(prompts))
        body: dict[str, Any] = {"prompt": prompts[at], "max_tokens": most}
        body |= {"temperature": 0, "stream": kind in ("stream", "leave")}
        if kind == "bad":
            raw, status = BAD[i // len(MIX) % len(BAD)]
            made.append(Question(kind, raw, status=status))
        elif kind == "drawn":
            body |= {"temperature": 1, "seed": 7, "n": 2}
            made.append(Question(kind, json.dumps(body).encode(), right["drawn"][at]))
        else:
            made.append(Question(kind, json.dumps(body).encode(), right["greedy"][at]))
    noise.shuffle(made)
    return made


def ask(address: tuple[str, int], question: Question) -> Outcome:
    """Sends one request, and looks at what comes."""
    started = time.perf_counter()
    with closing(http.client.HTTPConnection(*address, timeout=600)) as client:
        client.request("POST", PATH, question.body, JSON)
        response = client.getresponse()
        first = time.perf_counter() - started
        if question.kind == "leave":
            response.readline()
            return Outcome("leave", 0.0, first)
        told = response.read()
    seconds = time.perf_counter() - started
    if response.status != question.status:
        wrong = f"status {response.status}: {told[:200]!r}"
        return Outcome(question.kind, seconds, first, wrong=wrong)
    texts, tokens = read_answer(question.kind, told)
    wrong = "" if texts == question.right else f"{texts!r}, not {question.right!r}"
    return Outcome(question.kind, seconds, first, tokens, wrong)


def read_answer(kind: str, told: bytes) -> tuple[tuple[str, ...], int]:
    """The texts of the choices, and how many tokens they have, if that is told."""
    if kind == "bad":
        return (), 0
    if kind != "stream":
        answer = json.loads(told)
        texts = tuple(choice["text"] for choice in answer["choices"])
        return texts, answer["usage"]["completion_tokens"]
    events = told.decode().removesuffix("data: [DONE]\n\n").split("\n\n")
    parts = [json.loads(event.removeprefix("data: ")) for event in events if event]
    return ("".join(part["choices"][0]["text"] for part in parts),), 0


def soak(
    address: tuple[str, int], asked: Sequence[Question], at_once: int
) -> list[Outcome]:
    """Asks so many at once until all are asked."""
    with ThreadPoolExecutor(at_once) as clients:
        return list(clients.map(lambda question: ask(address, question), asked))


@contextmanager
def server(options: Sequence[str]) -> Iterator[tuple[tuple[str, int], int]]:
    """`python -m wmtp_jax.serve` on a free port: its address and process."""
    command = [sys.executable, "-m", "wmtp_jax.serve", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        words = [word for word in process.stdout.readline().split() if "://" in word]
        if not words:
            raise SystemExit(f"no server: {' '.join(command)}")
        url = urlsplit(words[0])
        yield (str(url.hostname), int(url.port or 0)), process.pid
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
        process.stdout.close()
    if code:
        raise SystemExit(f"the server ended with exit code {code}")


def held(address: tuple[str, int], pid: int) -> dict[str, int]:
    """Samples, files and threads of a server, and MiB, once no client is left."""
    for _ in range(1200):
        with closing(http.client.HTTPConnection(*address, timeout=60)) as client:
            client.request("GET", "/health")
            samples = json.loads(client.getresponse().read())["samples"]
        if not samples:
            break
        time.sleep(0.05)
    time.sleep(0.5)  # for connections to be closed
    of = Path("/proc") / str(pid)
    found = {"samples": samples}
    if of.is_dir():
        found["files"] = len(os.listdir(of / "fd"))
        found["threads"] = len(os.listdir(of / "task"))
        pages = int((of / "statm").read_text().split()[1])
        found["MiB"] = pages * os.sysconf("SC_PAGE_SIZE") // 2**20
    return found


def row(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Quantiles of whole answers, and of the time to a stream's beginning."""
    whole = [x.seconds for x in outcomes if x.kind in ("answer", "stream", "drawn")]
    first = [x.first for x in outcomes if x.kind in ("stream", "leave")]
    columns: dict[str, Any] = {"requests": len(outcomes)}
    columns["wrong"] = sum(x.wrong != "" for x in outcomes)
    for name, values in (("answer", whole), ("first", first)):
        for part in (50, 99):
            columns[f"{name} p{part} s"] = round(float(np.percentile(values, part)), 3)
    columns["requests/s"] = round(len(outcomes) / seconds, 2)
    columns["whole s"] = round(seconds, 1)
    return columns


def main() -> None:
    parser = options_parser(__doc__ or "")
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--warmup", type=int, default=50, help="requests not counted")
    parser.add_argument("--prompts", type=int, default=40, help="that differ")
    parser.add_argument("--letters", type=int, default=80, help="of a prompt, at most")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    asked, rest = parser.parse_known_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the server, too
    examples = load_examples(DataConfig())["train"]
    texts = [example["prompt"][: asked.letters] for example in examples]
    prompts = list(dict.fromkeys(texts))[: asked.prompts]
    right = _alone(asked, prompts)
    asks = questions(prompts, right, asked.tokens, asked.requests)
    with server(["--model", asked.model, *rest]) as (address, pid):
        soak(address, asks[: asked.warmup], asked.at_once)
        before, started = held(address, pid), time.perf_counter()
        outcomes = soak(address, asks, asked.at_once)
        seconds = time.perf_counter() - started
        after = held(address, pid)
    for outcome in [x for x in outcomes if x.wrong][:10]:
        print(f"{outcome.kind}: {outcome.wrong}", file=sys.stderr)
    told = {name: f"{before[name]} -> {after[name]}" for name in after}
    print_table([row(outcomes, seconds) | told], asked.json)


def _alone(asked: argparse.Namespace, prompts: Sequence[str]) -> dict[str, list[Any]]:
    """Its memory is free again before the server takes as much."""
    from wmtp_jax.decoding.engine import Engine
    from wmtp_jax.decoding.loaded import load

    engine = Engine(load(asked.model, MachineConfig()), rows=2, drafter="none")
    return alone(engine, prompts, asked.tokens)


if __name__ == "__main__":
    main()
