"""The same training step in torch: ours, and as users of `transformers` write it.

Each maker returns a function that makes one update, as those of `peers.py` do. Peers
train a stock model with linear heads on stacked logits, one document a row, padded to
the longest of the batch, without dropout.

Axes: B rows, L positions, K heads, V vocabulary, D width.
"""

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers import Done, Step, tokens_of
from shared.config.fields import Config
from shared.data.batches import Batch
from shared.huggingface.config_json import make_hf_config
from wmtp_torch_mps.device import find_device
from wmtp_torch_mps.model import FAMILIES
from wmtp_torch_mps.state import make_state
from wmtp_torch_mps.step import train_step


def ours_torch(cfg: Config, batches: list[Batch], held: dict[str, Any]) -> Step:
    """`wmtp_torch_mps`'s step, on a CPU.

    Args:
      held: the state, for others to go on from in turn; made if there is none.
    """
    cfg = replace(cfg, machine=replace(cfg.machine, device="cpu"))
    device = find_device(cfg)
    if "ours" not in held:
        held["ours"] = make_state(cfg, device)
    state, coming = held["ours"], cycle(batches)

    def run() -> Done:
        state.params.cfg = cfg  # with its own dtype
        batch = next(coming)
        _, metrics = train_step(state, batch, 1000)
        state.optimizer.zero_grad(set_to_none=True)  # the next may be another's
        return Done(tokens_of(batch), float(metrics["loss"]))

    return run


class PlainMTP(nn.Module):
    """A stock model and K - 1 linear heads; mean nll over all heads' targets."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        config_class, kind = (
            getattr(transformers, name) for name in FAMILIES[cfg.model.family][:2]
        )
        keys = make_hf_config(cfg.model, None, kind="causal", eos_id=0, pad_id=None)
        self.base = kind(config_class.from_dict(keys | {"use_cache": False}))
        made = [
            nn.Linear(cfg.model.width, cfg.model.vocab_size, bias=False)
            for _ in range(1, cfg.heads.count)
        ]
        self.heads = nn.ModuleList(made)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor
    ) -> dict[str, Tensor]:
        hidden_BLD = self.base.base_model(
            input_ids, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        logits = [self.base.get_output_embeddings()(hidden_BLD)]
        logits += [head(hidden_BLD) for head in self.heads]
        logits_BLKV = torch.stack(logits, dim=2)
        targets = [
            functional.pad(labels[:, 1 + k :], (0, 1 + k), value=-100)
            for k in range(len(logits))
        ]
        targets_BLK = torch.stack(targets, dim=2)
        return {
            "loss": functional.cross_entropy(
                logits_BLKV.flatten(0, 2), targets_BLK.flatten()
            )
        }


def inputs_of(batch: Batch) -> dict[str, Tensor | None]:
    """What the model is given of a padded batch; no mask where nothing is padding."""
    real_BL = batch.document_BL[0] > 0
    longest = int(real_BL.sum(axis=1).max())
    tokens_BL = torch.from_numpy(batch.tokens_BL[0, :, :longest]).long()
    mask_BL = torch.from_numpy(real_BL[:, :longest])
    return {
        "input_ids": tokens_BL,
        "attention_mask": None if mask_BL.all() else mask_BL.long(),
        "labels": tokens_BL.masked_fill(~mask_BL, -100),
    }


def torch_naive(
    cfg: Config,
    batches: list[Batch],
    held: dict[str, Any],
    *,
    bfloat16: bool = False,
    wrap: Callable[[nn.Module], Callable] = lambda model: model,
) -> Step:
    """Uniform MTP in a plain loop, with fused AdamW.

    Args:
      bfloat16: under `torch.autocast`.
      wrap: of the model, `torch.compile`.
    """
    if "naive" not in held:
        model = PlainMTP(cfg)
        rate = cfg.optimizer.lr
        held["naive"] = (
            model,
            torch.optim.AdamW(model.parameters(), lr=rate, fused=True),
        )
    model, optimizer = held["naive"]
    objective = wrap(model)
    coming = cycle([(inputs_of(batch), tokens_of(batch)) for batch in batches])

    def run() -> Done:
        given, tokens = next(coming)
        half = torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext()
        with half:
            mean = objective(**given)["loss"]
        mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.optimizer.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return Done(tokens, float(mean.detach()))

    return run


def hf_trainer(cfg: Config, batches: list[Batch], *, bfloat16: bool = False) -> Step:
    """The same model in a step of `transformers.Trainer`, with its own defaults."""
    arguments = transformers.TrainingArguments(
        output_dir=tempfile.gettempdir(),
        learning_rate=cfg.optimizer.lr,
        max_grad_norm=cfg.optimizer.clip_norm,
        bf16=bfloat16,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
    )
    trainer = transformers.Trainer(model=PlainMTP(cfg), args=arguments)
    trainer.create_optimizer_and_scheduler(1000)
    prepare = trainer.accelerator.prepare
    model, optimizer = prepare(trainer.model, trainer.optimizer)
    model.train()
    trainer.current_gradient_accumulation_steps = 1  # its loop would set it
    coming = cycle([(inputs_of(batch), tokens_of(batch)) for batch in batches])

    def run() -> Done:
        given, tokens = next(coming)
        loss = trainer.training_step(model, given)
        trainer.accelerator.clip_grad_norm_(model.parameters(), arguments.max_grad_norm)
        optimizer.step()
        trainer.lr_scheduler.step()
        model.zero_grad()
        return Done(tokens, float(loss))

    return run
