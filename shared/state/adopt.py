"""A new run that goes on from an exported folder, whichever backend has written it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.data.tokenizer import load_tokenizer
from shared.run.backend import Backend
from shared.state import run_folder
from shared.state.model_source import keep_tokenizer
from shared.state.portable_state import check_state


def adopt(
    folder: Path, output_dir: str, overrides: dict[str, Any], backend: Backend
) -> Path:
    """Makes the folder's state a run of this backend, to be resumed; its folder.

    Model, moments, position in the data, signals and tokenizer come along, so that the
    run needs neither the folder nor any reference afterwards.

    Args:
      output_dir: where the new run is put.
      overrides: fields given explicitly, of those that a resumed run may change and of
        the machine.

    Raises:
      ValueError: if the folder is damaged, or a field may not change. Nothing is left
        behind then.
    """
    header = check_state(folder)
    cfg = run_folder.changed_config(
        header.config, overrides, str(folder), free=("machine.",)
    )
    name = overrides.get("run_name", "")
    cfg = replace(cfg, output_dir=output_dir, run_name=name)
    device = backend.find_device(cfg)
    path, cfg = run_folder.create(cfg)
    try:
        run_folder.check_inputs(path, header.inputs | {"backend": backend.name})
        if (folder / "signals").is_dir():
            shutil.copytree(folder / "signals", path / "signals")
        if header.inputs.get("tokenizer") != load_tokenizer("bytes").digest:
            keep_tokenizer(path, load_tokenizer(str(folder)))
        backend.adopt(folder, path, cfg, device)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return path
