"""Tokens of a sample to text, as they come; stop strings on the text.

What is told piece by piece is, put together, what the whole would be decoded to behind
its prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

HALF = "\ufffd"  # what a tokenizer makes of bytes that are no character yet
CONTEXT = 8  # tokens before, which decide how a tokenizer spells the next ones
LONGEST_CHARACTER = 4  # bytes, each maybe a token


@dataclass
class TextStream:
    """The text of one sample.

    Attributes:
      decode: ids to text.
      context: the prompt's ids.
      stop: texts before which it ends.
      text: certain so far, without what is held back.
      ends: of each token, how long the text is with it, were it not for a stop string;
        the tokens of half a character end with the one that makes it whole.
      stopped: whether a stop string was found; `text` ends before it.
    """

    decode: Callable[[Sequence[int]], str]
    context: Sequence[int]
    stop: tuple[str, ...] = ()
    text: str = ""
    ends: list[int] = field(default_factory=list)
    stopped: bool = False

    def __post_init__(self) -> None:
        self._ids = self._last_of_context()
        self._prefix, self._read = 0, len(self._ids)
        self._before = self.decode(self._ids)
        self._told_text = self._told_tokens = 0

    def _last_of_context(self) -> list[int]:
        """Its last ids, as many as it takes for whole characters, and at least one."""
        ids, length = list(self.context), CONTEXT
        while length < len(ids):
            before = self.decode(ids[-length:])
            if before and HALF not in before:
                break
            length *= 2
        return ids[-length:]

    def push(self, token: int) -> bool:
        """Adds one token; returns whether the sample goes on."""
        self._ids.append(token)
        self.ends.append(len(self.text))
        now = self.decode(self._ids[self._prefix :])
        if not now.endswith(HALF):
            self._take(now, len(self._ids))
        elif len(halves := self._halves()) > LONGEST_CHARACTER:
            # No character: but for the last bytes, which may begin one.
            certain = halves[1 - LONGEST_CHARACTER]
            self._take(self.decode(self._ids[self._prefix : certain]), certain)
        return not self.stopped

    def _halves(self) -> list[int]:
        """Places of ids that wait for more of a character; an end of text is none."""
        waiting = range(self._read, len(self._ids))
        return [place for place in waiting if self.decode([self._ids[place]])]

    def _take(self, now: str, read: int) -> None:
        """The text up to the id `read` is certain."""
        known, new = len(self.text), now[len(self._before) :]
        self.text += new
        held = len(self._ids) - self._read
        for place in range(len(self.ends) - held, len(self.ends)):
            self.ends[place] = len(self.text)
        if new:  # else these ids decide nothing of how the next are spelled
            self._prefix = self._read
        self._read = read
        self._before = self.decode(self._ids[self._prefix : read])
        longest = max((len(stop) for stop in self.stop), default=0)
        start = max(0, known - longest + 1)
        found = [self.text.find(stop, start) for stop in self.stop]
        found = [place for place in found if place >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True

    def finish(self) -> None:
        """Adds what was held back as half a character: the sample ends."""
        if not self.stopped and self._read < len(self._ids):
            self._take(self.decode(self._ids[self._prefix :]), len(self._ids))

    def tell(self, *, last: bool) -> tuple[str, int]:
        """The text that is certain since the last time, and how many tokens it is.

        Where a stop string cuts a token, the token is told with what is left of it.

        Args:
          last: whether the sample has ended, so that nothing is held back.
        """
        certain = len(self.text) if last else len(self.text) - self._maybe_stop()
        told, self._told_text = self.text[self._told_text : certain], certain
        first = self._told_tokens
        if last and not self.stopped:
            self._told_tokens = len(self.ends)
        while self._told_tokens < len(self.ends) and self._is_told(certain, last):
            self._told_tokens += 1
        return told, self._told_tokens - first

    def _is_told(self, certain: int, last: bool) -> bool:
        place = self._told_tokens
        if self.ends[place] <= certain:
            # What is held back ends nowhere yet.
            return last or place < len(self.ends) - (len(self._ids) - self._read)
        start = self.ends[place - 1] if place else 0
        return last and start < certain

    def _maybe_stop(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        for length in range(max((len(x) for x in self.stop), default=1) - 1, 0, -1):
            end = self.text[-length:]
            if len(end) == length and any(s.startswith(end) for s in self.stop):
                return length
        return 0
