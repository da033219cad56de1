"""Trains heads that draft well: on text that the model has written itself.

    python -m wmtp_jax.train_heads --model FOLDER --data mbpp --out runs/drafts

The model writes a text to each training prompt (kept in OUT's folder, under
`generated`, and not written again); new `medusa` heads learn on those, the model itself
as it is (`heads.only`); then it is told how many of their drafts the model keeps.
OUT is the folder of that run, OUT/model the model with its heads. What was stopped goes
on when the command is given again. All options of `python -m wmtp_jax.train` are taken.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from shared.config.fields import Config
from shared.decoding.prompt_rows import prompt_ids
from shared.decoding.requests import Sampling
from shared.run.main import asked_of, exit_code, home_path
from wmtp_jax import NAME

# What heads alone learn well with; every option given wins.
RECIPE = (
    "--heads 4 --head-type medusa --heads.only --heads.fresh --algo baseline "
    "--data.max-length 256 --optimizer.lr 1e-3 --optimizer.schedule linear "
    "--train.epochs 4"
).split()


def config_of(model: str, data: str, out: Path, rest: list[str]) -> Config:
    """The config of the run of heads, but for its data.

    Raises:
      ValueError: for a mistake in an option.
    """
    own = ["--model", model, "--data", data, "--run-name", out.name]
    own += ["--output-dir", str(out.parent)]
    return asked_of([*own, *RECIPE, *rest], NAME).config


def model_in(name: str) -> str:
    """The model's folder: of a run, the model that it exported."""
    inner = Path(name).expanduser() / "model"
    return str(inner) if (inner / "config.json").is_file() else name


def generate(cfg: Config, sampling: Sampling, rows: int) -> Path:
    """Has the model write its texts; the folder that they are in, a data source."""
    import jax

    from shared.data.documents import load_examples
    from shared.decoding.generated import Generated, prompts_of
    from shared.signals.cache import signal_key
    from shared.tracking import console
    from wmtp_jax.decoding.loaded import load

    model = load(cfg.model.name, cfg.machine, heads=False, revision=cfg.model.revision)
    prompts = prompts_of(
        load_examples(cfg.data),
        model.tokenizer,
        chat=cfg.data.chat,
        max_length=cfg.data.max_length,
        most_length=model.cfg.max_positions,
    )
    asked = [(p.split, p.id, p.ids, p.most, p.row) for p in prompts]
    key = signal_key(
        model=_weights(model.params),
        tokenizer=model.tokenizer.digest,
        prompts=hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
        sampling=asdict(sampling),
        dtype=cfg.machine.dtype,
        jax=jax.__version__,
    )
    texts = Generated(Path(cfg.output_dir) / "generated" / key[:16], prompts)
    if texts.missing:
        write_texts(model, texts, sampling, rows)
    texts.finish()
    console.say(f"{len(prompts)} texts of the model: {texts.folder}")
    return texts.folder


def _weights(params: Any) -> str:
    """Digest of the parameters that write."""
    import jax
    import numpy as np

    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()


def write_texts(model: Any, texts: Any, sampling: Sampling, rows: int) -> None:
    """Decodes what is missing, many texts at once; each is kept when it is whole."""
    from shared.decoding.requests import Request
    from shared.tracking.console import Progress
    from wmtp_jax.decoding.engine import Engine

    engine = Engine(model, rows=rows, drafter="none")
    # Long prompts together, so that rows of about one length run together.
    wanted = sorted(texts.missing, key=lambda prompt: len(prompt.ids))
    asked, said, done = {}, {}, len(texts.texts)
    for place, prompt in enumerate(wanted):
        of_prompt = replace(
            sampling, max_tokens=prompt.most, seed=sampling.seed + place
        )
        number = engine.submit(Request(prompt=prompt.ids, sampling=of_prompt))
        asked[number], said[number] = prompt, ""
    total = len(texts.prompts)
    with Progress(total, "generate", start=done, unit="text") as progress:
        while engine.busy:
            for piece in engine.step():
                said[piece.request] += piece.text
                if piece.finish:
                    texts.keep(asked[piece.request], said.pop(piece.request))
                    done += 1
                    progress.update(done)


def report(cfg: Config, out: Path, data: str, count: int, tokens: int) -> None:
    """What drafts gain behind prompts of `data` that are kept for it; in OUT too."""
    from shared.data.prompts import load_prompts
    from shared.files import write_json
    from shared.tracking.console import Progress
    from wmtp_jax.acceptance import show
    from wmtp_jax.decoding import report as measured
    from wmtp_jax.decoding.loaded import load

    model = load(str(out / "model"), cfg.machine)
    prompts = [
        prompt_ids(model.tokenizer, {"prompt": text}, cfg.data.chat, "a prompt")
        for text in load_prompts(data, count)
    ]
    with Progress(len(prompts), "acceptance", unit="prompt") as progress:
        known = {"tokens": tokens, "progress": progress.update}
        found = measured.report(model, prompts, **known)
    show(Path(data).name, found)
    told = {"data": data, "drafters": found.drafters, "heads": found.heads}
    length = {"heads_at_every_position": found.agreement.length}
    write_json(out / "acceptance.json", told | length)


def run(asked: argparse.Namespace, rest: list[str]) -> None:
    """Texts, heads, report: what of it is not there yet."""
    from wmtp_jax.training import train

    out = asked.out.absolute()
    cfg = config_of(model_in(asked.model), asked.data, out, rest)
    if not cfg.heads.only:
        raise ValueError("heads.only must be true here, got false (train trains all)")
    sampling = Sampling(temperature=asked.temperature, seed=cfg.seed)
    if (out / "config.yaml").is_file():
        train(cfg, str(out))
    else:
        folder = generate(cfg, sampling, asked.rows)
        # The texts are documents of their own, whatever their prompts came from.
        data = replace(
            cfg.data,
            source=str(folder),
            format="auto",
            train_split="train",
            max_examples=0,
        )
        train(replace(cfg, data=data))
    if asked.report:
        report(cfg, out, asked.data, asked.report, asked.tokens)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}.train_heads",
        description=(__doc__ or "").splitlines()[0],
        epilog=f"Options of `python -m {NAME}.train` follow, as --heads 4.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, help="run, folder or hub name of the model")
    add("--data", required=True, help="whose training prompts it writes to")
    add("--out", type=home_path, required=True, help="folder of the run of the heads")
    add("--temperature", type=float, default=0.0, help="of its texts (0, greedy)")
    add("--rows", type=int, default=16, help="texts that are written at once (16)")
    add("--report", type=int, default=10, help="prompts decoded at the end (10)")
    add("--tokens", type=int, default=128, help="of each of those (128)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code (docs/configuration.md lists them)."""
    arguments = sys.argv[1:] if argv is None else argv
    with exit_code(arguments) as outcome:
        asked, rest = _parser().parse_known_args(arguments)
        for name, least in (("rows", 1), ("report", 0), ("tokens", 1)):
            if getattr(asked, name) < least:
                got = getattr(asked, name)
                raise ValueError(f"--{name} must be >= {least}, got {got}")
        from wmtp_jax.sharding import jax_told

        with jax_told():
            run(asked, rest)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
