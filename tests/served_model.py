"""A small random model with its tokenizer, and what `transformers` says of it."""

from functools import cache
from pathlib import Path

import numpy as np
import torch

from tests import hf_models, small_tokenizers

LONGEST = 256


def folder(at: Path) -> str:
    """Writes the model and its tokenizer, which has a chat template."""
    small_tokenizers.saved("byte-level BPE", at)
    hf_models.save(theirs(), at)
    return str(at)


@cache
def theirs():
    """The model as `transformers` runs it."""
    size = len(small_tokenizers.KINDS["byte-level BPE"]())
    sizes = {"vocab_size": size, "max_position_embeddings": LONGEST}
    return hf_models.make("llama-tied-grouped", **sizes)


def logprobs(ids: list[int]) -> np.ndarray:
    """Log-probabilities of every token `[L, V]` after each of the ids."""
    with torch.no_grad():
        logits = theirs()(torch.tensor([ids])).logits[0]
    return torch.log_softmax(logits.float(), -1).numpy()


def greedy(ids: list[int], count: int) -> list[int]:
    """The most probable tokens one after the other, ends of text among them."""
    said = list(ids)
    for _ in range(count):
        said.append(int(logprobs(said)[-1].argmax()))
    return said[len(ids) :]
