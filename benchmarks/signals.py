"""The pass that fills the signal cache: how rows are laid out, and what that costs.

    python -m benchmarks.signals --shape distilgpt2 --batch 8 --length 256
    python -m benchmarks.signals --data mbpp --data-folder FOLDER --tokenizer FOLDER \
        --documents 0

The first three rows are one jitted program, forward and nll, over other layouts of the
same documents; `transformers` is the stock model in torch with all logits. The floor is
the FLOPs that the real tokens need in trunk and head 0, at the rate that the head's own
products reach in this run, in float32.

Axes: B rows, L positions, V vocabulary.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np

from benchmarks import workload
from benchmarks.runs import print_table
from benchmarks.timing import ratio, spread, take_turns
from shared.batches import Batch
from shared.config import Config, DataConfig
from shared.data import Document, Split, load_splits
from shared.passes import Answer, over_documents, token_nll
from shared.rows import pack_tightly
from shared.tokenizer import load_tokenizer
from wmtp_jax import reference, sharding
from wmtp_jax.start import init_params

OURS = "ours, packed"
# Of the logarithm of the lengths of MBPP's training documents in GPT-2's tokens.
MEAN, DEVIATION, SHORTEST = 4.82, 0.43, 47
BYTES = 259

Found = tuple[np.ndarray, ...]  # nll of each token, per document
Pass = Callable[[], Found]


def main() -> None:
    asked = _parse()
    cfg = workload.config(asked)
    if cfg.model.vocab_size == 0:  # a preset over bytes, without a tokenizer here
        cfg = replace(cfg, model=replace(cfg.model, vocab_size=BYTES))
    split = mbpp(asked, cfg) if asked.data == "mbpp" else synthetic(cfg, asked)
    runs, positions = make_passes(cfg, split)
    held: dict[str, Found] = {}
    turns = {name: lambda n=name, run=run: held.update({n: run()})
             for name, run in runs.items()}  # fmt: skip
    rate = workload.gemm_rate(cfg, asked.batch * asked.length)
    times = take_turns(turns, rounds=asked.rounds)
    rate = (rate + workload.gemm_rate(cfg, asked.batch * asked.length)) / 2
    floor = flops(cfg, split) / rate
    tokens = sum(len(document.tokens) for document in split.documents)
    rows = [
        {
            "pass": name,
            **spread(times[name]),
            "real tokens/s": round(tokens / float(np.median(times[name]))),
            "padding": f"{1 - tokens / positions[name]:.1%}",
            "over ours": round(ratio(times, name, OURS), 2),
            "of the floor": f"{floor / min(times[name]):.0%}",
            "largest difference": f"{difference(held[name], held[OURS]):.0e}",
        }
        for name in runs
    ]
    print(
        f"{asked.shape}, {len(split.documents)} documents of {asked.data} ({tokens} "
        f"tokens), {asked.batch} x {asked.length}, float32, jax {jax.__version__}; "
        f"products run at {rate / 1e9:.0f} GFLOP/s, so the floor is {floor:.3f} s\n"
    )
    print_table(rows, asked.json)


def _parse() -> argparse.Namespace:
    parser = workload.parser(__doc__, batch=8, heads=1, rounds=2)
    parser.add_argument("--data", choices=("synthetic", "mbpp"), default="synthetic")
    parser.add_argument("--data-folder", help="of `mbpp`: a folder with train.jsonl")
    parser.add_argument("--tokenizer", help="of `mbpp`: a tokenizer's folder")
    parser.add_argument("--documents", type=int, default=56, help="0: all of `mbpp`")
    asked = parser.parse_args()
    if asked.data == "mbpp" and not (asked.data_folder and asked.tokenizer):
        parser.error("--data mbpp needs --data-folder and --tokenizer")
    if asked.data == "synthetic" and asked.documents < 1:
        parser.error("--documents must be at least 1 of synthetic documents")
    if asked.heads != 1:
        parser.error("--heads must be 1: a signal is of head 0 alone")
    return asked


def synthetic(cfg: Config, asked: argparse.Namespace) -> Split:
    """Random tokens in documents about as long as MBPP's; all but the first count."""
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


def mbpp(asked: argparse.Namespace, cfg: Config) -> Split:
    """The first documents of the training split in a folder."""
    data = DataConfig(
        source=asked.data_folder,
        max_length=asked.length,
        max_examples=asked.documents,
        loss_on="all",
    )
    try:
        tokenizer = load_tokenizer(asked.tokenizer, "--tokenizer")
        if tokenizer.vocab_size > cfg.model.vocab_size:
            raise ValueError(
                f"--tokenizer must have at most the {cfg.model.vocab_size} tokens of "
                f"--shape {asked.shape}, got {tokenizer.vocab_size}"
            )
        return load_splits(data, tokenizer, splits=("train",))["train"]
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


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


def packed(answer: Answer, cfg: Config, split: Split) -> Found:
    """As the trainers do."""
    lengths = [len(document.tokens) for document in split.documents]
    rows = pack_tightly(lengths, cfg.data.max_length)
    return over_documents(answer, token_nll, cfg, split, rows)


def padded(answer: Answer, cfg: Config, split: Split) -> Found:
    rows = [[index] for index in range(len(split.documents))]
    return over_documents(answer, token_nll, cfg, split, rows)


def padded_to_longest(answer: Answer, cfg: Config, split: Split) -> Found:
    """Compiled once for each length that occurs."""
    found: Found = ()
    for documents in in_order(split, cfg):
        data = replace(cfg.data, max_length=longest(documents))
        found += padded(
            answer, replace(cfg, data=data), replace(split, documents=documents)
        )
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

    from wmtp_torch_mps.reference import place

    model = place(params, cfg, torch.device("cpu")).base.eval()

    @torch.no_grad()
    def run() -> Found:
        found: Found = ()
        for documents in in_order(split, cfg):
            shape = (len(documents), longest(documents))
            tokens_BL, mask_BL = (
                torch.zeros(shape, dtype=torch.long),
                torch.zeros(shape),
            )
            for row, document in enumerate(documents):
                tokens_BL[row, : len(document.tokens)] = torch.from_numpy(
                    document.tokens
                )
                mask_BL[row, : len(document.tokens)] = 1
            logits_BLV = model(tokens_BL, attention_mask=mask_BL).logits
            nll_BL = functional.cross_entropy(
                logits_BLV[:, :-1].transpose(1, 2), tokens_BL[:, 1:], reduction="none"
            )
            nll_BL = functional.pad(nll_BL, (1, 0)).numpy()
            found += tuple(
                np.where(document.target, nll_L[: len(document.tokens)], 0)
                for nll_L, document in zip(nll_BL, documents, strict=True)
            )
        return found

    return run


def flops(cfg: Config, split: Split) -> float:
    """Of the matrix products that the real tokens cannot do without.

    Trunk: 2 for each number of its matrices and token, and 4 H N for each pair of
    tokens that attend (causal, within a document) in a layer. Head 0: 2 D V a target.
    """
    model = cfg.model
    lengths = np.array([len(document.tokens) for document in split.documents])
    pairs = float(np.sum(lengths * (lengths + 1) / 2))
    targets = sum(int(document.target.sum()) for document in split.documents)
    return (
        2.0 * workload.matrix_numbers(model) * float(lengths.sum())
        + 4.0 * model.H * model.num_attention_heads * model.num_layers * pairs
        + 2.0 * model.width * model.vocab_size * targets
    )


def difference(found: Found, right: Found) -> float:
    """Largest difference of any nll."""
    return max(float(np.abs(x - y).max()) for x, y in zip(found, right, strict=True))


if __name__ == "__main__":
    main()
