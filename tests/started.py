"""Short runs from small folders, and the line that a mistake gets."""

from pathlib import Path

from shared.data.tokenizer import load_tokenizer
from tests import hf_models
from wmtp_jax import train

SHORT = (
    "--train.max-steps 10 --train.eval-every 5 --train.save-every 5 "
    "--critic.stage1-epochs 1 --reference.epochs 1 --data.max-length 32 "
    "--data.max-examples 12 --data.batch-size 4 --optimizer.lr 1e-3 --tracking jsonl"
).split()


def folder_of(case, folder, kind="causal", **changes):
    """A random model of `transformers` with the byte tokenizer beside it."""
    theirs = hf_models.make(case, kind, **changes)
    hf_models.save(theirs, folder)
    load_tokenizer("bytes").implementation.save_pretrained(str(folder))
    return folder


def run(output_dir, name, *options):
    """A short run of the trainer; returns its folder."""
    arguments = [*SHORT, "--output-dir", str(output_dir), "--run-name", name]
    assert train.main([*arguments, *map(str, options)]) == 0
    return Path(output_dir) / name


def refusal(capsys, *options):
    """The one line that a mistake is answered with."""
    capsys.readouterr()
    assert train.main([*SHORT, *map(str, options)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]
