"""Our models in lm-evaluation-harness, and its tasks judged in our sandbox.

    python -m wmtp_jax.harness --model RUN_OR_FOLDER --tasks wmtp_mbpp,wmtp_mbpp_bits \\
        --data MBPP_FOLDER --limit 100 --to FILE.json

    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from wmtp_jax.harness import TASKS, WMTP

    told = {"source": "MBPP_FOLDER"}
    manager = TaskManager(include_path=str(TASKS), metadata=told)
    simple_evaluate(WMTP("runs/one"), tasks=["wmtp_mbpp"], task_manager=manager)

Needs the extra `lm-eval`. The tasks `wmtp_...` read our problems and ask in our prompt
forms, which are the harness's byte for byte; they run programs in our sandbox, where
the harness's own tasks run them unprotected and fetch a metric from the hub first.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, make_table

from shared.config.fields import MachineConfig
from shared.decoding.requests import DRAFTERS, Request, Sampling
from shared.files import write_json
from shared.run.main import exit_code, home_path
from shared.tracking import console
from shared.tracking.console import Progress
from wmtp_jax import NAME
from wmtp_jax.decoding.engine import Engine
from wmtp_jax.decoding.loaded import load
from wmtp_jax.decoding.surprise import make_measure
from wmtp_jax.generate import answers
from wmtp_jax.sharding import jax_told, keep_programs

TASKS = Path(__file__).with_name("harness_tasks")
OURS = "wmtp_"  # what the names of our tasks begin with
MAX_GEN_TOKS = 256  # the harness's own default
SAMPLING = {"temperature", "top_p", "top_k", "min_p"}
IGNORED = {"do_sample", "until", "max_gen_toks"}


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
        drafter: str = "auto",
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
        self.measure = make_measure(loaded, self.engine.prompts)

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
        spells = add_special_tokens is False
        return tokenizer.spell(string) if spells else tokenizer.encode(string)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.model.tokenizer.implementation.chat_template

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        implementation = self.model.tokenizer.implementation
        return implementation.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
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
        """As `shared/evaluation/solutions.py` splits prompt and solution."""
        ids = self.tok_encode(prompt)
        together = self.tok_encode(prompt + text)
        if len(together) > len(ids) and together[: len(ids)] == ids:
            return ids, together[len(ids) :]
        return ids, self.tok_encode(text, add_special_tokens=False)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Contexts that are too long lose their beginning."""
        found = []
        with Progress(len(requests), "loglikelihood", unit="text") as progress:
            for key, context, text in requests:
                if len(text) > self.max_length:
                    raise ValueError(
                        "a text whose probability is asked for must have at most the "
                        f"model's {self.max_length} tokens, got {len(text)}"
                    )
                head = self.measure(context[-(self.max_length + 1 - len(text)) :], text)
                found.append((-head[0].nll, head[0].right == head[0].targets))
                if key is not None:
                    self.cache_hook.add_partial("loglikelihood", key, found[-1])
                progress.update(len(found))
        return found

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
        asked = [
            self._request(*json.loads(key), len(numbers), self.seed + i)
            for i, (key, numbers) in enumerate(where.items())
        ]
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
        self, context: str, kwargs: dict[str, Any], own: bool, samples: int, seed: int
    ) -> Request:
        """What the engine is asked; a context that is too long loses its beginning.

        As in the harness a sample always has room for all its tokens; in our own tasks
        (`own`) a prompt stays whole where the model can read it.
        """
        given: dict[str, Any] = dict(normalize_gen_kwargs(kwargs, MAX_GEN_TOKS))
        if unknown := sorted(given.keys() - SAMPLING - IGNORED):
            known = ", ".join(sorted(SAMPLING | IGNORED))
            raise ValueError(
                f"generation_kwargs must be of {known}, got {', '.join(unknown)}"
            )
        most = given["max_gen_toks"]
        room = self.max_length - (1 if own else most)
        if room < 1:
            raise ValueError(
                f"max_gen_toks must be below the model's {self.max_length} tokens, got "
                f"{most}"
            )
        drawn = {name: given[name] for name in SAMPLING & given.keys()}
        return Request(
            prompt=tuple((self.tok_encode(context) or [self.prefix_token_id])[-room:]),
            samples=samples if drawn.get("temperature") else 1,  # all are the same
            sampling=Sampling(
                **drawn,
                seed=seed % 2**32,
                stop=tuple(x for x in given["until"] if x),
                max_tokens=most,
            ),
        )


def run(asked: argparse.Namespace) -> None:
    """Evaluates by the harness and shows its table."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    names = [name.strip() for name in asked.tasks.split(",")]
    keep_programs(asked.compiled)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it tells of its options
    stock = not all(name.startswith(OURS) for name in names)
    told = {"source": asked.data, "split": asked.split}
    manager = TaskManager(
        include_path=str(TASKS), include_defaults=stock, metadata=told
    )
    if unknown := [name for name in names if name not in manager.all_tasks]:
        known = sorted(name for name in manager.all_tasks if name.startswith(OURS))
        raise ValueError(
            f"--tasks must be of {', '.join(known)} or the harness's own, got "
            f"{', '.join(unknown)}"
        )
    model = WMTP(asked.model, dtype=asked.dtype, rows=asked.rows, drafter=asked.drafter)
    found = simple_evaluate(
        model,
        tasks=names,
        task_manager=manager,
        limit=asked.limit or None,
    )
    console.say(make_table(found))
    if asked.to:
        write_json(asked.to, json.loads(json.dumps(found, default=str)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}.harness", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--model", required=True, help="run, RUN/checkpoints/STEP, folder or hub name")
    add("--tasks", default="wmtp_mbpp", help="with commas between (wmtp_mbpp)")
    add("--data", default="minis", help="source of the problems of our tasks (minis)")
    add("--split", default="", help="of the source (test)")
    add("--limit", type=int, default=0, help="first so many problems; 0 takes all (0)")
    add("--to", type=home_path, help="JSON file of all that the harness tells")
    add("--drafter", choices=DRAFTERS, default="auto", help="who drafts tokens (auto)")
    add("--rows", type=int, default=16, help="texts that are written at once (16)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--compiled", type=home_path, default=Path("runs/compiled"),
        help="folder of compiled programs (runs/compiled)")  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for bad input."""
    with exit_code([]) as outcome:
        asked = _parser().parse_args(argv)
        for name, least in (("rows", 1), ("limit", 0)):
            if getattr(asked, name) < least:
                got = getattr(asked, name)
                raise ValueError(f"--{name} must be >= {least}, got {got}")
        with jax_told():
            run(asked)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
