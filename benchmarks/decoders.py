"""What decodes beside what: our engine, `transformers`, llama.cpp.

A side writes so many tokens behind each prompt of a turn, greedily, whatever ends of
text come: `side(prompts) -> texts`, as ids. At batch 1 prompts go one after the other.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

Ids = Sequence[int]
Write = Callable[[Sequence[Ids]], list[list[int]]]


class Ours:
    """Our engine.

    Attributes:
      engine: with so many rows and that drafter.
      passes: seconds and tokens of a row of each call that did nothing but decode.
    """

    def __init__(self, model: Any, batch: int, drafter: str, tokens: int) -> None:
        from wmtp_jax.decoding.engine import Engine

        self.engine = Engine(model, rows=batch, drafter=drafter)
        self.batch, self.tokens = batch, tokens
        self.passes: list[tuple[float, int]] = []

    def __call__(self, prompts: Sequence[Ids]) -> list[list[int]]:
        texts: list[list[int]] = []
        for start in range(0, len(prompts), self.batch):
            texts += self._batch(prompts[start : start + self.batch])
        return texts

    def _batch(self, prompts: Sequence[Ids]) -> list[list[int]]:
        from shared.decoding.requests import Request, Sampling

        sampling = Sampling(max_tokens=self.tokens, ignore_eos=True)
        asked = [Request(prompt=tuple(ids), sampling=sampling) for ids in prompts]
        numbers = {self.engine.submit(request): i for i, request in enumerate(asked)}
        texts: list[list[int]] = [[] for _ in prompts]
        counted, first = self.engine.acceptance, True
        while self.engine.busy:
            before, started = counted.tokens, time.perf_counter()
            for piece in self.engine.step():
                texts[numbers[piece.request]] += piece.tokens
            seconds = time.perf_counter() - started
            gained = (counted.tokens - before) / len(prompts)
            if not first and gained:  # the first also reads the prompts
                self.passes.append((seconds, gained))
            first = False
        return texts

    def per_token(self) -> float:
        """Seconds of one token of every row, since it was last asked; NaN if none."""
        if not self.passes:
            return math.nan
        seconds, tokens = (sum(x) for x in zip(*self.passes, strict=True))
        self.passes.clear()
        return seconds / tokens


def theirs(folder: str, batch: int, tokens: int, held: dict[str, Any]) -> Write:
    """`transformers.generate`, float32, greedy, its cache in use; padded on the left.

    Args:
      held: keeps the model, for further sides.
    """
    import torch
    import transformers

    if "torch" not in held:
        transformers.utils.logging.disable_progress_bar()
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(os.cpu_count() or 1)
        kind = transformers.AutoModelForCausalLM
        made = kind.from_pretrained(folder, dtype=torch.float32).eval()
        made.generation_config = transformers.GenerationConfig(use_cache=True)
        held["torch"] = made
    model = held["torch"]

    def write(prompts: Sequence[Ids]) -> list[list[int]]:
        texts: list[list[int]] = []
        for start in range(0, len(prompts), batch):
            given = prompts[start : start + batch]
            longest = max(map(len, given))
            ids = [[0] * (longest - len(x)) + list(x) for x in given]
            mask = [[0] * (longest - len(x)) + [1] * len(x) for x in given]
            with torch.inference_mode():
                found = model.generate(
                    input_ids=torch.tensor(ids),
                    attention_mask=torch.tensor(mask),
                    max_new_tokens=tokens,
                    do_sample=False,
                    pad_token_id=0,
                )
            texts += found[:, longest:].tolist()
        return texts

    return write


def llama_cpp(file: str, tokens: int) -> Write:
    """llama.cpp's Python package on a GGUF file, one prompt at a time."""
    from llama_cpp import Llama

    model = Llama(model_path=file, n_ctx=2048, n_threads=os.cpu_count(), verbose=False)

    def write(prompts: Sequence[Ids]) -> list[list[int]]:
        texts = []
        for prompt in prompts:
            model.reset()
            said = model.generate(list(prompt), temp=0.0, repeat_penalty=1.0)
            texts.append(list(islice(said, tokens)))
        return texts

    return write
