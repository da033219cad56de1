"""How an error of somebody else's is told in one line, and a text to a terminal."""

KEPT = ("\n", "\t")  # which every picture shows in its own way
MOST = 4000  # letters of a line that tells of an error


def first_line(error: BaseException | str) -> str:
    """The first line of a message; the type of an error that has none.

    Example:
      >>> first_line("damaged\\nat byte 7"), first_line(KeyError())
      ('damaged', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def named_line(error: BaseException) -> str:
    """Type and first line of an error."""
    name, text = type(error).__name__, first_line(error).rstrip(".: ")
    return f"{name}: {text}" if text and text != name else name


def os_error_line(error: OSError) -> str:
    """What the system refused, and for which file.

    Example:
      >>> os_error_line(OSError(28, "No space left on device", "a.txt"))
      'a.txt: No space left on device'
    """
    if error.strerror is None:
        return first_line(error)
    return f"{error.filename}: " * (error.filename is not None) + error.strerror


def visible(text: str) -> str:
    r"""The text, with escapes in place of what cannot be seen or moves a cursor.

    Example:
      >>> visible("a b\x1b[2J")
      'a b\\x1b[2J'
    """
    return "".join(map(_letter, text))


def _letter(letter: str) -> str:
    if letter.isprintable() or letter in KEPT:
        return letter
    number = ord(letter)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def one_line(text: str) -> str:
    r"""A text with its line ends as escapes too, and without its middle if it is long.

    Example:
      >>> one_line("no a\nb.jsonl")
      'no a\\nb.jsonl'
    """
    text = visible(text).replace("\n", "\\n").replace("\t", "\\t")
    return text if len(text) <= MOST else f"{text[:1000]} ... {text[-1000:]}"
