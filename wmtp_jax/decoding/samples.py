"""One sample of a request on the host: its tokens, its text, what is told of it."""

from typing import Any

from shared.decoding.ngram import Lookup
from shared.decoding.requests import Finish, Piece, Request, Top
from shared.decoding.text import TextStream
from wmtp_jax.decoding.loaded import Loaded
from wmtp_jax.decoding.prompts import Prefill
from wmtp_jax.decoding.rows import Gained


class Sample:
    """A text that a row of the engine writes.

    Attributes:
      left: tokens that it may still gain.
      length: tokens of prompt and sample that the cache has, or will have next.
      drafted: what the heads drafted at the last token.
      candidates: all that is drafted for its next tokens, and from where.
      waiting: of earlier ones, what is still to be held against its tokens.
      finish: why it has ended; empty while it goes on.
    """

    def __init__(
        self,
        request_number: int,
        number: int,
        request: Request,
        model: Loaded,
        max_length: int,
    ) -> None:
        sampling = request.sampling
        self.request_number, self.number, self.request = request_number, number, request
        self.left = min(sampling.max_tokens, max_length - len(request.prompt))
        self.length = len(request.prompt)
        self.lookup = Lookup(request.prompt)
        self.drafted: list[int] = []
        self.candidates: list[tuple[list[int], str]] = []
        self.waiting: list[tuple[list[int], str, int]] = []
        self.finish: Finish = ""
        self._stream = TextStream(model.tokenizer.decode, request.prompt, sampling.stop)
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._top: list[Top] = []
        self._told = 0
        self._prompt: dict[str, Any] = {}

    def tell_prompt(self, prefill: Prefill) -> None:
        """The prompt's log-probabilities go into the first piece."""
        if self.request.echo and prefill.logprobs is not None:
            self._prompt = {
                "prompt_logprobs": prefill.logprobs,
                "prompt_top": prefill.top,
            }

    def gain(
        self, gained: Gained, row: int, tokens: list[int], ends: tuple[int, ...]
    ) -> None:
        """Takes the tokens of its row, until the sample ends."""
        most = self.request.logprobs
        self.drafted = []
        if gained.draft_BJ is not None:
            self.drafted = [int(x) for x in gained.draft_BJ[row]]
        for i, token in enumerate(tokens):
            self.left -= 1
            self.length += 1
            self.lookup.extend([token])
            if token in ends and not self.request.sampling.ignore_eos:
                self._end("stop")
                return
            self._tokens.append(token)
            if most is not None:
                self._note(gained, row, i, most)
            if not self._stream.push(token):
                self._end("stop")
                return
        if self.left <= 0:
            self._end("length")

    def tell(self) -> Piece | None:
        """What is certain since the last time; None if that is nothing."""
        text, count = self._stream.tell(last=bool(self.finish))
        first, self._told = self._told, self._told + count
        prompt, self._prompt = self._prompt, {}
        if not (text or count or self.finish or prompt):
            return None
        has_logprobs = self.request.logprobs is not None
        told = slice(first, self._told)
        return Piece(
            request=self.request_number,
            sample=self.number,
            text=text,
            tokens=tuple(self._tokens[told]),
            logprobs=tuple(self._logprobs[told]) if has_logprobs else (),
            top=tuple(self._top[told]) if has_logprobs else (),
            finish=self.finish,
            **prompt,
        )

    def _note(self, gained: Gained, row: int, i: int, most: int) -> None:
        assert gained.logprob_BT is not None and gained.top_BTN is not None
        assert gained.top_logprob_BTN is not None
        self._logprobs.append(float(gained.logprob_BT[row, i]))
        ids = gained.top_BTN[row, i, :most].tolist()
        self._top.append(
            tuple(zip(ids, gained.top_logprob_BTN[row, i, :most].tolist(), strict=True))
        )

    def _end(self, finish: Finish) -> None:
        self.finish, self.left = finish, 0
        self._stream.finish()
        if self._stream.stopped:  # in what was held back
            self.finish = "stop"
