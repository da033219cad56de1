"""Whether a script has written what it should, as CodeContests tells it."""

NEAR = 1e-5  # absolute difference of two numbers that count as equal


def same_output(written: str, expected: str) -> bool:
    """Compares word by word, without regard to case and white space.

    Two words are equal as texts, or as numbers if they differ by at most 1e-5.

    Example:
      >>> same_output("YES 0.30000000004\\n", "yes\\n0.3")
      True
    """
    one, other = written.lower().split(), expected.lower().split()
    return len(one) == len(other) and all(map(_same_word, one, other))


def _same_word(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return abs(float(one) - float(other)) <= NEAR
    except ValueError:
        return False
