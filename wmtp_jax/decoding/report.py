"""What drafting gains: every drafter writes the same texts, and the heads are held
against them.

Drafters take turns prompt by prompt, one text at a time, so that a machine that slows
down slows all of them. Everything is compiled before the first second counts.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from shared.decoding.acceptance import Acceptance, Agreement
from shared.decoding.requests import DRAFTERS, Request, Sampling
from wmtp_jax.decoding.agreement import agreement
from wmtp_jax.decoding.engine import Engine
from wmtp_jax.decoding.loaded import Loaded
from wmtp_jax.decoding.programs import MOST_STEPS, block_for, places_for

PLAIN = "none"
ALL = tuple(name for name in DRAFTERS if name != "auto")


@dataclass(frozen=True)
class Report:
    """What was measured of one set of prompts.

    Attributes:
      drafters: a row each, `none` first: counts and rates of `Acceptance.summary`,
        `seconds` of all texts (their prompts' passes included), `tokens_per_s`,
        `speed_up` over `none` in that time, `median_speed_up` of a prompt, and
        `same_text`, the texts that are token for token those of `none`.
      agreement: of the heads, over the texts of `none`.
    """

    drafters: list[dict[str, Any]]
    agreement: Agreement

    @property
    def heads(self) -> list[dict[str, float]]:
        """A row for each head; head 0 is the model."""
        return self.agreement.rows()


@dataclass
class _Side:
    """One drafter, and what it wrote."""

    engine: Engine
    texts: list[list[int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def write(self, prompt: Sequence[int], tokens: int) -> None:
        start = perf_counter()
        text = write(self.engine, prompt, tokens)
        self.seconds.append(perf_counter() - start)
        self.texts.append(text)


def drafters_of(model: Loaded) -> tuple[str, ...]:
    """Those that the model can be drafted by."""
    return ALL if model.heads.count > 1 else ("none", "ngram")


def report(
    model: Loaded,
    prompts: Sequence[Sequence[int]],
    drafters: Sequence[str] = ALL,
    *,
    tokens: int = 128,
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Writes greedily behind each prompt, with each drafter.

    Args:
      prompts: ids of each, at least one.
      drafters: of `none`, `ngram`, `heads` and `both`; `none` is always measured.
      tokens: of a text at most; an end of text ends it before.
      progress: is told how many prompts are done.

    Raises:
      ValueError: if there is no prompt, or one that the model cannot take; or a drafter
        that it has no heads for.
    """
    if not prompts:
        raise ValueError("acceptance needs at least one prompt, got none")
    names = dict.fromkeys((PLAIN, *drafters))
    sides = {x: _Side(Engine(model, rows=1, drafter=x)) for x in names}
    for side in sides.values():
        warm_up(side.engine, prompts, tokens)
    order = list(sides.values())
    for done, prompt in enumerate(prompts):
        for side in order:
            side.write(prompt, tokens)
        order.append(order.pop(0))
        progress(done + 1)
    plain = sides[PLAIN]
    rows = [_row(name, side, plain) for name, side in sides.items()]
    texts = zip(prompts, plain.texts, strict=True)
    return Report(rows, agreement(model, texts))


def that_fit(
    prompts: Sequence[Sequence[int]], tokens: int, positions: int
) -> list[Sequence[int]]:
    """The prompts behind which a model has room for so many tokens.

    Raises:
      ValueError: if there are none.
    """
    found = [prompt for prompt in prompts if 0 < len(prompt) <= positions - tokens]
    if not found:
        raise ValueError(
            f"a prompt must have at most {positions - tokens} tokens, which with the "
            f"{tokens} asked for are the model's {positions}, got "
            f"{min(map(len, prompts), default=0)} and more"
        )
    return found


def warm_up(engine: Engine, prompts: Sequence[Sequence[int]], tokens: int) -> None:
    """Compiles and times all that texts behind these prompts may need."""
    shapes = {}
    for prompt in prompts:
        shapes[_blocks_of(len(prompt)), places_of(len(prompt), tokens)] = prompt
    calibrate(engine, prompts, tokens)
    for prompt in shapes.values():
        write(engine, prompt, tokens, ends=False)
    engine.acceptance = Acceptance()


def calibrate(engine: Engine, prompts: Sequence[Sequence[int]], tokens: int) -> None:
    """Times passes over drafts with every size of the cache that texts will need."""
    if engine.drafting.name != PLAIN:
        for places in sorted({n for x in prompts for n in places_of(len(x), tokens)}):
            engine.calibrate(places)


def places_of(prompt: int, tokens: int) -> tuple[int, ...]:
    """Sizes that the cache of one row has, one after the other."""
    found = [places_for(prompt)]
    while found[-1] < prompt + tokens + MOST_STEPS:
        found.append(2 * found[-1])
    return tuple(found)


def _blocks_of(prompt: int) -> tuple[int, ...]:
    """Sizes of the passes over a prompt without its last token."""
    found, left = [], prompt - 1
    while left > 0:
        found.append(block_for(left))
        left -= found[-1]
    return tuple(found)


def write(
    engine: Engine, prompt: Sequence[int], tokens: int, *, ends: bool = True
) -> list[int]:
    """What the engine, which has nothing else to do, writes greedily.

    Args:
      ends: whether an end of text ends it.
    """
    sampling = Sampling(max_tokens=tokens, ignore_eos=not ends)
    engine.submit(Request(prompt=tuple(prompt), sampling=sampling))
    found: list[int] = []
    while engine.busy:
        for piece in engine.step():
            found += piece.tokens
    return found


def _row(name: str, side: _Side, plain: _Side) -> dict[str, Any]:
    pairs = list(zip(plain.seconds, side.seconds, strict=True))
    same = zip(plain.texts, side.texts, strict=True)
    counted = side.engine.acceptance
    return {
        "drafter": name,
        "prompts": len(side.texts),
        **counted.summary(),
        "seconds": sum(side.seconds),
        "tokens_per_s": counted.tokens / sum(side.seconds),
        "speed_up": sum(plain.seconds) / sum(side.seconds),
        "median_speed_up": statistics.median(a / b for a, b in pairs),
        "same_text": sum(a == b for a, b in same),
    }
