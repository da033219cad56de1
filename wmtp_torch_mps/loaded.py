"""A model to measure: a run, one of its checkpoints, an export, a model folder."""

from dataclasses import dataclass, replace
from pathlib import Path

from shared.config.fields import MachineConfig
from shared.config.layers import build
from shared.data.tokenizer import Tokenizer, load_tokenizer
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.hub import model_folder
from shared.huggingface.token_map import read_token_map
from shared.state.checkpoints import steps_in
from shared.state.run_folder import check_backend, named_step, run_of
from wmtp_torch_mps import NAME
from wmtp_torch_mps.device import find_device
from wmtp_torch_mps.init_params import load_params
from wmtp_torch_mps.model import WMTP


@dataclass(frozen=True)
class Loaded:
    """A model on the device, and the tokenizer of its folder.

    Attributes:
      folder: what it was read from.
    """

    folder: Path
    model: WMTP
    tokenizer: Tokenizer


def load(name: str, machine: MachineConfig) -> Loaded:
    """Reads what `--model` names; of a run its export, else its newest checkpoint.

    Heads that score only some ids (`token_map`) are left out: they have no probability
    of the others.

    Raises:
      ValueError: if it is none of them, or cannot be computed on the device.
    """
    folder = _folder_of(name)
    described = read_hf_config(folder)
    if described.kind != "causal":
        raise ValueError(
            f"--model must be a causal language model, got a sequence classifier in "
            f"{folder}"
        )
    count = 1 if read_token_map(folder) is not None else described.num_heads
    layer = described.layer | {
        "algo": "baseline",  # no value head
        "model.name": str(folder),
        "data.max_length": count + 1,
        "heads.count": count,
    }
    if described.head_type and count > 1:
        layer["heads.type"] = described.head_type
    cfg = replace(build(layer), machine=machine)
    tokenizer = load_tokenizer(str(folder), "the tokenizer of --model")
    return Loaded(folder, load_params(cfg, find_device(cfg)), tokenizer)


def _folder_of(name: str) -> Path:
    run = run_of(name)
    if run is None:
        return model_folder(name, "", "--model")
    step = named_step(Path(name).expanduser())
    if step is None and (run / "model").is_dir():
        return run / "model"
    instead = f"name its export, {run / 'model'}, or write one: "
    check_backend(run, NAME, instead + "python -m wmtp_jax.export")
    steps = steps_in(run / "checkpoints")
    if step is None and not steps:
        raise ValueError(f"--model must hold a checkpoint, got none in {run}")
    return run / "checkpoints" / str(max(steps) if step is None else step)
