"""Small splits and frozen models without any model, for passes that fill the cache."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from shared.config.fields import Config, DataConfig, ModelConfig
from shared.data.documents import Document, Split
from shared.signals.cache import signal_key
from shared.signals.measure import Asked, find_signal
from shared.signals.passes import token_nll

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

    def asked(self) -> Asked:
        return Asked(
            what="ref_nll",
            make_answer=self.load,
            of_document=token_nll,
            length_of=lambda document: len(document.tokens),
        )

    def run(self, folder, split, **data):
        """The whole pass, with its cache in `folder`."""
        return find_signal(self.asked(), config_of(folder, **data), split, KEY)


def assert_right(found, split) -> None:
    """Each document got the answers to its own tokens, in order."""
    assert len(found) == len(split.documents)
    for x, document in zip(found, split.documents, strict=True):
        place_T = np.arange(len(document.tokens)) / 64
        right = (document.tokens + place_T).astype(np.float32)
        np.testing.assert_array_equal(x, right)
