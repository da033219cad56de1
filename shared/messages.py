"""How an error of somebody else's is told in one line."""


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
