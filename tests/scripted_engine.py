"""An engine without a model: it says each prompt backwards, a token at a step.

Sample `i` begins with the digit `i`. Prompts may hold a script: `REFUSE` is not taken,
`BOOM` makes the step fail that would answer it, `~` makes no end of the sample.
"""

import time
from dataclasses import dataclass, field

from shared.data.tokenizer import load_tokenizer
from shared.decoding.requests import Piece

TOKENIZER = load_tokenizer("bytes")


def reply(prompt: str, sample: int = 0) -> str:
    """What a sample says."""
    return f"{sample}{prompt[::-1]}"


def logprob(token: int) -> float:
    """Of a token, wherever it stands."""
    return -token / 100


def top(token: int, count: int):
    """The token itself is the most probable one."""
    return tuple((token + i, logprob(token + i)) for i in range(count))


@dataclass
class Row:
    number: int
    sample: int
    request: object
    said: list[int]
    told: int = 0  # tokens
    text: str = ""


@dataclass
class ScriptedEngine:
    rows: int = 4
    delay: float = 0.0
    max_length: int = 200
    tokenizer: object = TOKENIZER
    waiting: list[Row] = field(default_factory=list)
    running: list[Row] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    count: int = 0

    @property
    def busy(self):
        return bool(self.waiting or self.running)

    def submit(self, request):
        prompt = self.tokenizer.decode(request.prompt)
        if "REFUSE" in prompt:
            raise ValueError("the prompt must be another, got this")
        self.count += 1
        for sample in range(request.samples):
            said = self.tokenizer.encode(reply(prompt, sample))
            if "~" in prompt:
                said = said * 1000
            self.waiting.append(Row(self.count, sample, request, said))
        return self.count

    def cancel(self, number):
        self.cancelled.append(number)
        for rows in (self.waiting, self.running):
            rows[:] = [row for row in rows if row.number != number]

    def step(self):
        while self.waiting and len(self.running) < self.rows:
            self.running.append(self.waiting.pop(0))
        self.batches.append(len(self.running))
        time.sleep(self.delay)
        pieces = [self.advance(row) for row in self.running]
        ended = {(p.request, p.sample) for p in pieces if p.finish}
        self.running = [r for r in self.running if (r.number, r.sample) not in ended]
        return pieces

    def advance(self, row):
        """One more token; half a character is held back."""
        request, sampling = row.request, row.request.sampling
        if "BOOM" in self.tokenizer.decode(request.prompt):
            raise RuntimeError("out of memory\nat length")
        last = min(len(row.said), sampling.max_tokens)
        made = min(row.told + 1, last)
        while made < last and not self.whole(row.said[:made]):
            made += 1
        text = self.tokenizer.decode(row.said[:made])
        finish = "stop" if made == len(row.said) else "length" if made == last else ""
        for stop in sampling.stop:
            if stop in text:
                text, finish = text[: text.index(stop)], "stop"
                made -= 1
        return self.piece(row, text, made, finish)

    def whole(self, said):
        """Whether tokens end with a character."""
        text = self.tokenizer.decode(said)
        bytewise = self.tokenizer is TOKENIZER
        return len(text.encode()) == len(said) if bytewise else text[-1:] != "\ufffd"

    def piece(self, row, text, made, finish):
        tokens = tuple(row.said[row.told : made])
        gained, echo = text[len(row.text) :], row.request.echo and not row.text
        wanted = row.request.logprobs
        told = tokens if wanted is not None else ()
        prompt = row.request.prompt if echo and wanted is not None else ()
        row.text, row.told = text, made
        return Piece(
            request=row.number,
            sample=row.sample,
            text=gained,
            tokens=tokens,
            logprobs=tuple(map(logprob, told)),
            top=tuple(top(t, wanted) for t in told) if wanted else (),
            finish=finish,
            prompt_logprobs=(None, *map(logprob, prompt[1:])) if prompt else (),
            prompt_top=((), *(top(t, wanted) for t in prompt[1:])) if prompt else (),
        )
