"""Cards written: into an export, into RUN/model at the end of a run, and anew.

    write_model(folder, ..., beside=card_beside(run, step))
    write_card(run)                   # RUN/model, by who holds the run
    renew_card(model)                 # after an evaluation: RUN/model, unless edited

A card is a whole file that is there or not. Its last line has a digest of the others,
so that a card that somebody has edited is never written over.
"""

import hashlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shared.card import text
from shared.card.facts import read_facts, read_summary
from shared.card.markdown import code
from shared.files import write_text
from shared.huggingface.card_data import CARD, front_matter
from shared.messages import first_line
from shared.state.run_folder import lock, named_step, run_of

log = logging.getLogger("wmtp")
LAST = "<!-- Written by wmtp; sha256 of all above: {} -->\n"


def make_card(run: Path, step: int, folder: Path) -> str:
    """The card of a run's model.

    Args:
      step: whose parameters the model has.
      folder: with its files, whose digest tells which results are its own.

    Raises:
      ValueError: if a file of the run is damaged.
    """
    facts, results = read_facts(run, step), ""
    if (run / "evaluated").is_dir():
        from shared.card.results import results_table  # late: scipy is slow

        results = results_table(run, folder)
    found = {
        "": text.INTRODUCTION,
        "What it was made from": text.origin(facts),
        "Training": text.training(facts),
        "Validation": text.validation(facts),
        "Results": results or text.NOT_EVALUATED,
        "Contamination": text.contamination(facts),
        "How to load it": text.loading(facts.cfg),
        "Versions": text.versions(facts),
    }
    parts = [front_matter(text.metadata(facts)), f"# {code(run.name)}"]
    for title, section in found.items():
        parts += [f"## {title}"] * bool(title and section) + [section] * bool(section)
    whole = "\n\n".join(parts) + "\n\n"
    return whole + LAST.format(_digest(whole))


def is_untouched(card: str) -> bool:
    """Whether a card is still as it was written here."""
    whole = card[: card.rstrip("\n").rfind("\n") + 1]
    return card == whole + LAST.format(_digest(whole))


def card_beside(run: Path, step: int) -> Callable[[Path], None]:
    """What writes the card of a step's model into a folder with its other files."""
    return partial(_put_card, run, step)


def _put_card(run: Path, step: int, folder: Path) -> None:
    write_text(folder / CARD, make_card(run, step, folder))


def write_card(run: Path) -> None:
    """Writes the card of RUN/model; the caller holds the run.

    Does nothing where the newest session has exported none.
    """
    step, folder = read_summary(run).get("exported_step"), run / "model"
    if step is not None and folder.is_dir():
        _put_card(run, step, folder)


def renew_card(model: str) -> None:
    """Writes the card of RUN/model anew, now that there are results.

    Left as it is where somebody has edited it, or a trainer holds the run, which writes
    one itself at its end. Results are safe whatever happens to a card: what fails is
    told, not raised.

    Args:
      model: that was evaluated, as the user has named it.
    """
    run = run_of(model)
    if run is None or named_step(model) is not None or not (run / "model").is_dir():
        return
    file = run / "model" / CARD
    try:
        held = lock(run)
        try:
            if file.is_file() and not is_untouched(file.read_text("utf-8")):
                log.info("the model card has been edited and stays as it is: %s", file)
                return
            write_card(run)
            log.info("model card: %s", file)
        finally:
            held.release()
    except (OSError, ValueError) as error:
        log.warning("the model card stays as it is: %s", first_line(error))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
