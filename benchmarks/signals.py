"""The pass that fills the signal cache: how rows are laid out, and what that costs.

    python -m benchmarks.signals --shape distilgpt2 --batch 8 --length 256
    python -m benchmarks.signals --data FOLDER --tokenizer FOLDER --documents 0

The first three rows are one jitted program, forward and nll, over other layouts of the
same documents; `transformers` is the stock model in torch with all logits. The floor is
the FLOPs that the real tokens need in trunk and head 0, at the rate that the head's own
products reach in this run.

Axes: B rows, L positions, V vocabulary.
"""

import argparse
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from benchmarks import floor, workload
from benchmarks.runs import print_table
from benchmarks.timing import Times, rates, ratio, spread, take_turns
from shared.config.fields import Config
from shared.data.batches import Batch
from shared.data.documents import Document, Split
from shared.data.packing import pack_tightly
from shared.signals.passes import ask
from shared.tracking.flops import trunk_flops
from wmtp_jax import reference, sharding
from wmtp_jax.init_params import init_params

OURS = "ours, packed"
# Of the logarithm of the lengths of MBPP's training documents in GPT-2's tokens.
MEAN, DEVIATION, SHORTEST = 4.82, 0.43, 47

Found = tuple[np.ndarray, ...]  # nll of each token, per document
Pass = Callable[[], Found]
Answer = Callable[[Batch], Any]


def main() -> None:
    asked = _parse()
    cfg = workload.config(asked)
    split = read_split(asked, cfg)
    runs, positions = make_passes(cfg, split)
    held: dict[str, Found] = {}

    def keeping(name: str, run: Pass) -> Callable[[], None]:
        return lambda: held.update({name: run()})

    products = floor.products(cfg, asked.batch * asked.length)
    turns = {"products": products}
    turns |= {name: keeping(name, run) for name, run in runs.items()}
    counted: Times = {}
    times = take_turns(turns, rounds=asked.rounds, counted=counted)
    tokens = sum(len(document.tokens) for document in split.documents)
    least = flops(cfg, split)
    rate = statistics.median(
        rates({"products": times["products"]}, counted)["products"]
    )
    rows = []
    for name in runs:
        share = floor.share_of_floor(
            times[name],
            [least] * asked.rounds,
            times["products"],
            counted["products"],
        )
        row = {
            "pass": name,
            **spread(times[name]),
            "real tokens/s": round(tokens / statistics.median(times[name])),
            "padding": f"{1 - tokens / positions[name]:.1%}",
            "over ours": round(ratio(times, name, OURS), 2),
            "of the floor": f"{share:.0%}",
            "largest difference": f"{difference(held[name], held[OURS]):.0e}",
        }
        rows.append(row)
    print(
        f"{workload.title(asked, rate)}; {len(split.documents)} documents of {tokens} "
        f"tokens\n"
    )
    print_table(rows, asked.json)


def _parse() -> argparse.Namespace:
    parser = workload.parser(__doc__, batch=8, heads=1, rounds=2)
    parser.add_argument(
        "--documents", type=int, default=56, help="first so many; 0: all of --data"
    )
    asked = parser.parse_args()
    if asked.documents < (asked.data == "synthetic"):
        parser.error("--documents must be at least 1 (0 only where --data has an end)")
    if asked.heads != 1:
        parser.error("--heads must be 1: a signal is of head 0 alone")
    return asked


def read_split(asked: argparse.Namespace, cfg: Config) -> Split:
    """The first documents of the training split, or random ones as long as MBPP's."""
    if asked.data != "synthetic":
        split = workload.train_split(cfg)
        chosen = split.documents[: asked.documents or None]
        return replace(split, documents=chosen)
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(MEAN, DEVIATION, asked.documents)).astype(int)
    documents = tuple(
        Document(
            id=str(number),
            tokens=rng.integers(0, cfg.model.vocab_size, length).astype(np.int32),
            target=np.arange(length) > 0,
        )
        for number, length in enumerate(lengths.clip(SHORTEST, cfg.data.max_length))
    )
    return Split("train", documents, 0, "")


def make_passes(cfg: Config, split: Split) -> tuple[dict[str, Pass], dict[str, int]]:
    """Every pass over the split, and how many positions of the trunk it computes."""
    mesh = sharding.make_mesh(cfg)
    params = jax.jit(lambda: init_params(cfg))()
    answer = reference.make_ref_nll(params, cfg, mesh)
    layouts = {
        OURS: packed,
        "one document a row, padded to L": padded,
        "padded to the longest of the batch": padded_to_longest,
    }
    runs: dict[str, Pass] = {
        name: lambda layout=layout: layout(answer, cfg, split)
        for name, layout in layouts.items()
    }
    positions = {name: counted(layout, cfg, split) for name, layout in layouts.items()}
    runs["transformers"] = in_transformers(jax.device_get(params), cfg, split)
    positions["transformers"] = sum(
        len(batch) * longest(batch) for batch in in_order(split, cfg)
    )
    return runs, positions


def over_documents(
    answer: Answer, cfg: Config, split: Split, rows: list[list[int]]
) -> Found:
    """What a model answers at every token, as the trainers ask for it."""
    answers: deque = deque()
    found = [np.zeros(0, np.float32)] * len(split.documents)
    for batch in ask(rows, split, cfg, answers, found):
        answers.append(answer(batch))
    return tuple(found)


def packed(answer: Answer, cfg: Config, split: Split) -> Found:
    """As the trainers do."""
    lengths = [len(document.tokens) for document in split.documents]
    rows = pack_tightly(lengths, cfg.data.max_length)
    return over_documents(answer, cfg, split, rows)


def padded(answer: Answer, cfg: Config, split: Split) -> Found:
    rows = [[index] for index in range(len(split.documents))]
    return over_documents(answer, cfg, split, rows)


def padded_to_longest(answer: Answer, cfg: Config, split: Split) -> Found:
    """Compiled once for each length that occurs."""
    found: Found = ()
    for documents in in_order(split, cfg):
        here = workload.with_rows(cfg, cfg.data.batch_size, longest(documents))
        found += padded(answer, here, replace(split, documents=documents))
    return found


def in_order(split: Split, cfg: Config) -> list[tuple[Document, ...]]:
    """Documents of each batch, B at a time."""
    B, documents = cfg.data.batch_size, split.documents
    return [documents[start : start + B] for start in range(0, len(documents), B)]


def longest(documents: tuple[Document, ...]) -> int:
    return max(len(document.tokens) for document in documents)


def counted(layout: Callable[..., Found], cfg: Config, split: Split) -> int:
    """Positions of all batches of a layout."""
    shapes = []

    def answer(batch: Batch) -> np.ndarray:
        shapes.append(batch.tokens_BL.shape)
        return np.zeros(batch.tokens_BL.shape, np.float32)

    layout(answer, cfg, split)
    return sum(B * L for B, L in shapes)


def in_transformers(params: dict, cfg: Config, split: Split) -> Pass:
    """The stock model with the same weights, as its users take a reference's nll."""
    import torch
    from torch.nn import functional

    from wmtp_torch_mps.reference import from_arrays

    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    model = from_arrays(params, cfg, device).base.eval()
    model = model.to(getattr(torch, cfg.machine.dtype))

    @torch.no_grad()
    def run() -> Found:
        found: Found = ()
        for documents in in_order(split, cfg):
            shape = (len(documents), longest(documents))
            tokens_BL = torch.zeros(shape, dtype=torch.long)
            mask_BL = torch.zeros(shape)
            for row, document in enumerate(documents):
                here = slice(len(document.tokens))
                tokens_BL[row, here] = torch.from_numpy(document.tokens)
                mask_BL[row, here] = 1
            tokens_BL, mask_BL = tokens_BL.to(device), mask_BL.to(device)
            logits_BLV = model(tokens_BL, attention_mask=mask_BL).logits.float()
            nll_X = functional.cross_entropy(
                logits_BLV[:, :-1].flatten(0, 1),
                tokens_BL[:, 1:].flatten(),
                reduction="none",
            )
            nll_BL = nll_X.reshape(len(documents), -1)
            nll_BL = functional.pad(nll_BL, (1, 0)).cpu().numpy()
            found += tuple(
                np.where(document.target, nll_L[: len(document.tokens)], 0)
                for nll_L, document in zip(nll_BL, documents, strict=True)
            )
        return found

    return run


def flops(cfg: Config, split: Split) -> float:
    """Of the matrix products that the real tokens cannot do without.

    The trunk's forward pass, and 2 D V for each target under head 0.
    """
    lengths = np.array([len(document.tokens) for document in split.documents])
    targets = sum(int(document.target.sum()) for document in split.documents)
    row = 2.0 * cfg.model.width * cfg.model.vocab_size
    return trunk_flops(cfg.model, lengths) + row * targets


def difference(found: Found, right: Found) -> float:
    """Largest difference of any nll."""
    return max(float(np.abs(x - y).max()) for x, y in zip(found, right, strict=True))


if __name__ == "__main__":
    main()
