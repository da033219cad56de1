"""Small splits and frozen models without any model, for passes that fill the cache."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from shared.config.fields import Config, DataConfig, ModelConfig
from shared.data.documents import Document, Split
from shared.signals.cache import signal_key
from shared.signals.columns import token_nll
from shared.signals.passes import FrozenModel, Pass, ask

L, B = 32, 2
KEY = signal_key(of="tests")


def split_of(lengths, *, vocab=200, name="train", seed=0) -> Split:
    """Documents of random tokens >= 1; all tokens after a prompt are targets."""
    rng = np.random.default_rng(seed)
    documents = tuple(
        Document(
            id=f"task/{i}",
            tokens=rng.integers(1, vocab, n).astype(np.int32),
            target=np.arange(n) >= min(3, n - 1),
        )
        for i, n in enumerate(lengths)
    )
    return Split(name, documents, 0, f"digest of {name} {seed}")


def config_of(folder, **data) -> Config:
    model = ModelConfig(num_layers=1, width=8, num_attention_heads=1, max_positions=999)
    defaults = {"max_length": L, "batch_size": B}
    return Config(
        output_dir=str(folder), model=model, data=DataConfig(**defaults | data)
    )


def frozen_of(cfg, splits, **known) -> FrozenModel:
    """A model with these weights, and nothing behind it."""
    tokenizer = SimpleNamespace(digest=known.pop("tokenizer", "t"))
    identity = {"weights": known.pop("weights", "weights")}
    return FrozenModel(
        cfg=cfg,
        tokenizer=tokenizer,
        source="a folder",
        splits=splits,
        **{"identity": identity} | known,
    )


def pass_over(split, cfg, *, of_document=token_nll, length=None, model=None) -> Pass:
    return Pass(
        name="ref_nll",
        model=model or frozen_of(cfg, {split.name: split}),
        split=split,
        key=KEY,
        cfg=cfg,
        length_of=lambda document: length or len(document.tokens),
        of_document=of_document,
    )


def over_documents(answer, cfg, split, rows):
    """What is answered at every token of every document, in these rows."""
    answers, found = deque(), [None] * len(split.documents)
    for batch in ask(rows, split, cfg, answers, found):
        answers.append(answer(batch))
    return found


def plain_answer(batch):
    """A number of each token that depends on its place in the document, too."""
    return (batch.tokens_BL + batch.positions_BL / 64).astype(np.float32)


@dataclass
class Model:
    """A frozen model that counts what it is asked.

    Attributes:
      before: called with the number of each batch, from 1, before it is answered.
    """

    before: Callable[[int], None] = lambda number: None
    loads: int = 0
    batches: list = field(default_factory=list)

    def load(self):
        self.loads += 1
        return self.answer

    def answer(self, batch):
        self.before(len(self.batches) + 1)
        self.batches.append(batch)
        return plain_answer(batch)

    def run(self, folder, split, **data):
        """The whole pass, with its cache in `folder`."""
        wanted = pass_over(split, config_of(folder, **data))
        wanted.read()
        self.measure(wanted)
        return wanted.values

    def measure(self, *passes):
        """As a trainer does: reads the weights only where something is left to ask."""
        left = [wanted for wanted in passes if wanted.values is None]
        answer = self.load() if left else None
        for wanted in left:
            for batch in wanted:
                wanted.keep(answer(batch))


def assert_right(found, split) -> None:
    """Each document got the answers to its own tokens, in order."""
    assert len(found) == len(split.documents)
    for x, document in zip(found, split.documents, strict=True):
        place_T = np.arange(len(document.tokens)) / 64
        right = (document.tokens + place_T).astype(np.float32)
        np.testing.assert_array_equal(x, right)
