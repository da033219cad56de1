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
      ends: of each token, how long the text is with it.
      stopped: whether a stop string was found; `text` ends before it.
    """

    decode: Callable[[Sequence[int]], str]
    context: Sequence[int]
    stop: tuple[str, ...] = ()
    text: str = ""
    ends: list[int] = field(default_factory=list)
    stopped: bool = False

    def __post_init__(self) -> None:
        self._ids = list(self.context)[-CONTEXT:]
        self._prefix, self._read = 0, len(self._ids)
        self._before = self.decode(self._ids)
        self._told_text = self._told_tokens = 0

    def push(self, token: int) -> bool:
        """Adds one token; returns whether the sample goes on."""
        self._ids.append(token)
        now = self.decode(self._ids[self._prefix :])
        # Bytes that are no character yet are shown as such, or, of the tokenizer
        # `bytes`, not at all.
        whole = len(now) > len(self._before) and not now.endswith(HALF)
        if whole or self._is_long():
            self._take(now)
        self.ends.append(len(self.text))
        return not self.stopped

    def _is_long(self) -> bool:
        return len(self._ids) - self._read > LONGEST_CHARACTER

    def _take(self, now: str) -> None:
        known = len(self.text)
        self.text += now[len(self._before) :]
        self._prefix, self._read = self._read, len(self._ids)
        self._before = self.decode(self._ids[self._prefix :])
        longest = max((len(stop) for stop in self.stop), default=0)
        start = max(0, known - longest + 1)
        found = [self.text.find(stop, start) for stop in self.stop]
        found = [place for place in found if place >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True

    def finish(self) -> None:
        """Adds what was held back as half a character: the sample ends."""
        if not self.stopped and self._read < len(self._ids):
            self._take(self.decode(self._ids[self._prefix :]))
            if self.ends:
                self.ends[-1] = len(self.text)

    def tell(self, *, last: bool) -> tuple[str, int]:
        """The text that is certain since the last time, and how many tokens it is.

        Args:
          last: whether the sample has ended, so that nothing is held back.
        """
        certain = len(self.text) if last else len(self.text) - self._maybe_stop()
        told, self._told_text = self.text[self._told_text : certain], certain
        first = self._told_tokens
        if last and not self.stopped:
            self._told_tokens = len(self.ends)
        elif last:
            starts = [0, *self.ends[:-1]]
            self._told_tokens = sum(start < certain for start in starts)
        else:
            while self._told_tokens < len(self.ends) and self._is_told(certain):
                self._told_tokens += 1
        return told, self._told_tokens - first

    def _is_told(self, certain: int) -> bool:
        # A token of half a character is told with the one that makes it whole.
        place = self._told_tokens
        whole = len(self._ids) - self._read
        return self.ends[place] <= certain and place < len(self.ends) - whole

    def _maybe_stop(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        for length in range(max((len(x) for x in self.stop), default=1) - 1, 0, -1):
            end = self.text[-length:]
            if len(end) == length and any(s.startswith(end) for s in self.stop):
                return length
        return 0
