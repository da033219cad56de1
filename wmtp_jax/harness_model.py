"""A model of ours as lm-evaluation-harness asks it."""

import json
import logging
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from shared.config.fields import MachineConfig
from shared.data.chat import prompt_text
from shared.data.spelling import name_of
from shared.decoding.requests import Request, Sampling
from shared.tracking.console import Progress
from wmtp_jax.decoding.engine import Engine
from wmtp_jax.decoding.loaded import load, without_heads
from wmtp_jax.decoding.surprise import make_measure
from wmtp_jax.generate import answers

log = logging.getLogger("wmtp")

TASKS = Path(__file__).with_name("harness_tasks")
OURS = "wmtp_"  # what the names of our tasks begin with
MAX_GEN_TOKS = 256  # the harness's own default
SAMPLING = {"temperature", "top_p", "top_k", "min_p"}
KNOWN = SAMPLING | {"do_sample", "until", "max_gen_toks", "max_length"}


def is_ours(request: Any) -> bool:
    """Whether a request is of a task of ours."""
    return str(request.task_name).startswith(OURS)


class WMTP(TemplateLM):
    """A model of ours as the harness asks it; answers come in the order of requests.

    A text is encoded as at use, with the tokenizer's BOS where it adds one. A prompt of
    our own tasks keeps the white space at its end, where the harness would count it to
    what follows; then numbers are those of `python -m wmtp_jax.evaluate`.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "float32",
        rows: int = 16,
        drafter: str = "none",
        seed: int = 0,
    ) -> None:
        """Loads a run, a checkpoint, a Hugging Face folder or a hub name.

        Args:
          rows: texts that are written at once.
          drafter: as of `Engine`.
          seed: of the first request that is sampled; the others count on.

        Raises:
          ValueError: if it is none of them.
        """
        super().__init__()
        loaded = load(model, MachineConfig(dtype=dtype))  # type: ignore[arg-type]
        self.model, self.seed = loaded, seed
        self.engine = Engine(loaded, rows=rows, drafter=drafter)
        # What the other heads make of a text is nothing that the harness asks for.
        self.measure = make_measure(without_heads(loaded), self.engine.prompts)

    @property
    def eot_token_id(self) -> int:
        return self.model.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that nothing stands before."""
        bos = self.model.tokenizer.implementation.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        return self.model.cfg.max_positions

    @property
    def tokenizer_name(self) -> str:
        return self.model.tokenizer.digest

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        tokenizer = self.model.tokenizer
        begun = tuple(map(name_of, tokenizer.before))  # by a chat template
        if add_special_tokens is False or (begun and string.startswith(begun)):
            return tokenizer.spell(string)
        return tokenizer.encode(string)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.model.tokenizer.implementation.chat_template

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Without `add_generation_prompt` the last message is to be gone on with."""
        return prompt_text(
            self.model.tokenizer, chat_history, begun=not add_generation_prompt
        )

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether greedy decoding says it."""
        pairs: list[Any] = []
        for request in requests:
            context, continuation = request.args
            if is_ours(request):
                ids = self._at_the_seam(context, continuation)
            elif context:
                ids = self._encode_pair(context, continuation)
            else:
                own = self.tok_encode(continuation, add_special_tokens=False)
                begins = own[:1] == [self.prefix_token_id]
                ids = (own[:1], own[1:]) if begins else ([self.prefix_token_id], own)
            pairs.append(((context, continuation), *ids))
        return self._loglikelihood_tokens(pairs)

    def _at_the_seam(self, prompt: str, text: str) -> tuple[list[int], list[int]]:
        """As `shared/evaluation/tasks/solutions.py` splits prompt and solution."""
        ids = self.tok_encode(prompt)
        together = self.tok_encode(prompt + text)
        if len(together) > len(ids) and together[: len(ids)] == ids:
            return ids, together[len(ids) :]
        return ids, self.tok_encode(text, add_special_tokens=False)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Contexts that are too long lose their beginning, as there."""
        found, cut = [], 0
        with Progress(len(requests), "loglikelihood", unit="text") as progress:
            for key, context, text in requests:
                if len(text) > self.max_length:
                    raise ValueError(
                        "a text whose probability is asked for must have at most the "
                        f"model's {self.max_length} tokens, got {len(text)}"
                    )
                room = self.max_length + 1 - len(text)
                cut += len(context) > room
                (head,) = self.measure(context[-room:], text)
                found.append((-head.nll, head.right == head.targets))
                if key is not None:
                    self.cache_hook.add_partial("loglikelihood", key, found[-1])
                progress.update(len(found))
        self._tell_cut(cut)
        return found

    def _tell_cut(self, count: int) -> None:
        if count:
            log.warning(
                "prompts that have lost their beginning: %d (the model reads %d tokens,"
                " what follows them included)", count, self.max_length,
            )  # fmt: skip

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of each whole text, every token predicted once."""
        windows, number_of = [], []
        for number, request in enumerate(requests):
            (text,) = request.args
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *make_disjoint_window(window)))
                number_of.append(number)
        found = [0.0] * len(requests)
        answered = self._loglikelihood_tokens(windows)
        for number, (value, _) in zip(number_of, answered, strict=True):
            found[number] += value
        return found

    def generate_until(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[str]:
        """A text for each request, up to one of its stop strings.

        Requests that are the same are samples of one, with noise of their own each.
        """
        where: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            key = json.dumps((*request.args, is_ours(request)))
            where.setdefault(key, []).append(number)
        asked, cut = [], 0
        for i, (key, numbers) in enumerate(where.items()):
            context, kwargs, own = json.loads(key)
            ids = self.tok_encode(context) or [self.prefix_token_id]
            asked.append(self._request(ids, kwargs, own, len(numbers), self.seed + i))
            cut += len(asked[-1].prompt) < len(ids)
        self._tell_cut(cut)
        found = [""] * len(requests)
        with Progress(len(asked), "generate", unit="prompt") as progress:
            written = answers(self.engine, asked, False)
            pairs = zip(where.values(), written, strict=True)
            for done, (numbers, samples) in enumerate(pairs, 1):
                for number, sample in zip(numbers, cycle(samples), strict=False):
                    found[number] = sample["text"]
                    args = requests[number].args
                    self.cache_hook.add_partial("generate_until", args, found[number])
                progress.update(done)
        return found

    def _request(
        self, ids: list[int], kwargs: dict[str, Any], own: bool, samples: int, seed: int
    ) -> Request:
        """What the engine is asked; a prompt that is too long loses its beginning.

        As in the harness a sample always has room for `max_gen_toks`; in our own tasks
        (`own`) a prompt stays whole where the model can read it.
        """
        given = normalised(kwargs)
        most = given["max_gen_toks"]
        room = self.max_length - (1 if own else most)
        if room < 1:
            raise ValueError(
                f"max_gen_toks must be below the model's {self.max_length} tokens, got "
                f"{most}"
            )
        prompt = tuple(ids[-room:])
        if "max_length" in given:  # of prompt and sample together, as in `transformers`
            most = max(0, given["max_length"] - len(prompt))
        is_drawn = given["do_sample"]
        return Request(
            prompt=prompt,
            samples=samples if is_drawn else 1,  # all are the same
            sampling=Sampling(
                **{name: given[name] for name in SAMPLING & given.keys() if is_drawn},
                seed=seed % 2**32,
                stop=tuple(x for x in given["until"] if x),
                max_tokens=most,
            ),
        )


def normalised(kwargs: dict[str, Any]) -> dict[str, Any]:
    """`generation_kwargs` of a task under one name each.

    Raises:
      ValueError: if one means nothing here, or samples are to be drawn at no
        temperature.
    """
    given = dict(normalize_gen_kwargs(kwargs, MAX_GEN_TOKS))
    if unknown := sorted(given.keys() - KNOWN):
        raise ValueError(
            f"generation_kwargs must be of {', '.join(sorted(KNOWN))}, got "
            f"{', '.join(unknown)}"
        )
    if given["do_sample"] and not given.get("temperature"):
        raise ValueError(
            "generation_kwargs must have a temperature > 0 with do_sample, got "
            f"{given.get('temperature', 'none')}"
        )
    return given
