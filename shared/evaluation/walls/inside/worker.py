"""Serves calls of a program: it holds the program, and never what is expected of it.

A request is a letter and a text of Python: `x` runs it in the program's namespace, `e`
asks for the value of an expression, `t` for its truth, `k` for its value, which is kept
if it is not plain data. Answers, in JSON:

    ["is", value]  ["odd", type name, number]  ["raised", types, message]

A program may write answers itself. They are then its answers, and nothing else.
"""

import os
import sys

from shared.evaluation.walls.inside import frames
from shared.evaluation.walls.inside.spelling import Odd, spell, spell_text

NAME = "program"  # not "__main__": what a program does as a script is not asked for
FILE = "<program>"
KEPT = "__kept__"
NAMES = {"__frozenset__": frozenset, "__complex__": complex}  # of `plain_data.source`
MESSAGE = 200  # characters of an error that are told


def serve() -> None:
    """Answers requests until there are no more."""
    requests, answers = os.dup(0), os.dup(1)
    silence()
    module = type(sys)(NAME)
    sys.modules[NAME] = module
    names = vars(module)
    kept: list[object] = []
    while True:
        try:
            request = frames.read(requests)
        except EOFError:
            os._exit(0)
        answer = answer_to(request[0], request[1:], names, kept)
        try:
            frames.write(answers, answer)
        except BaseException:
            os._exit(1)


def silence() -> None:
    """Descriptors 0, 1 and 2 read and write nothing: what is printed is not judged."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.close(nothing)


def answer_to(
    letter: str, text: str, names: dict[str, object], kept: list[object]
) -> str:
    """Whatever a program raises is an answer, too."""
    try:
        if letter == "x":
            exec(compile(text, FILE, "exec", dont_inherit=True), names)
            return '["is",null]'
        code = compile(text.strip(), FILE, "eval", dont_inherit=True)
        value = eval(code, names, {KEPT: kept, **NAMES})
        if letter == "t":
            return '["is",true]' if value else '["is",false]'
        try:
            return f'["is",{spell(value)}]'
        except Odd:
            if letter == "k":
                kept.append(value)
            name = spell_text(type(value).__name__)
            return f'["odd",{name},{len(kept) - 1}]'
    except BaseException as error:
        return raised(error)


def raised(error: BaseException) -> str:
    """The error's types, the nearest first, and what it says."""
    types = ",".join(spell_text(kind.__name__) for kind in type(error).__mro__[:-1])
    try:
        said = str(error)[:MESSAGE]
    except BaseException:
        said = ""
    return f'["raised",[{types}],{spell_text(said)}]'
