"""What is asked of a decoder, and what it answers, piece by piece.

A request is one prompt, of which one or more samples are drawn. Its answer comes in
pieces: each holds the tokens and the text that one sample has gained.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from shared.config.ranges import Checked

Finish = Literal["", "stop", "length", "cancelled"]
Top = tuple[tuple[int, float], ...]  # (token, log-probability), most probable first
DRAFTERS = ("auto", "none", "ngram", "heads", "both")
MOST_TOP = 20  # alternatives of a token that can be asked for


@dataclass(frozen=True, kw_only=True)
class Sampling(Checked):
    """How tokens are chosen, and when a sample ends."""

    max_tokens: Annotated[int, ">= 0"] = 256
    """tokens of a sample at most; 0 asks for the prompt's log-probabilities alone"""
    temperature: Annotated[float, ">= 0"] = 0.0
    """logits are divided by it, >= 0; 0 takes the most probable token (greedy)"""
    top_k: Annotated[int, ">= 0"] = 0
    """only so many of the most probable tokens; 0 keeps all"""
    top_p: Annotated[float, "in (0, 1]"] = 1.0
    """the fewest of the most probable tokens that have this share together"""
    min_p: Annotated[float, "in [0, 1)"] = 0.0
    """only tokens with this share of the most probable one's probability"""
    seed: Annotated[int, ">= 0"] = 0
    """of a request's noise; sample i of it draws noise of its own"""
    stop: tuple[str, ...] = ()
    """texts before which a sample ends; its tokens end there too"""
    ignore_eos: bool = False
    """go on after the model's ends of text"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("seed", self.seed < 2**32, "below 2**32")
        self.require("stop", all(self.stop), "texts that are not empty")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt.

    Attributes:
      prompt: ids of its tokens, as the model is to see them (with BOS where it has
        one); at least one.
      samples: drawn from one prefill.
      logprobs: None, or how many alternatives are told beside each token's own
        log-probability, 0 to `MOST_TOP`. All are those of the model, at temperature 1
        and before any tokens are left out.
      echo: whether the prompt's own are told, in the first piece of each sample.
    """

    prompt: tuple[int, ...]
    samples: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    logprobs: int | None = None
    echo: bool = False


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one sample has gained.

    The pieces of a sample, put together, are its answer: streamed or not, the text is
    the same. Where a stop string or an end of text cuts it, `tokens` are cut too.

    Attributes:
      request: number of the request, as `submit` gave it.
      sample: number of the sample, from 0.
      text: decoded so far as it is certain: half a character is held back, and so is
        what may become a stop string.
      tokens: whose text is told here (an end of text is not among them).
      logprobs: log-probability of each of `tokens`; empty if not asked for.
      top: the most probable tokens at each of them; empty if not asked for.
      finish: why the sample ends here; empty if it goes on.
      prompt_logprobs: with `echo`, of each token of the prompt; None for the first,
        which has nothing before it.
      prompt_top: likewise; empty for the first.
    """

    request: int
    sample: int
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[Top, ...] = ()
    finish: Finish = ""
    prompt_logprobs: tuple[float | None, ...] = ()
    prompt_top: tuple[Top, ...] = ()
