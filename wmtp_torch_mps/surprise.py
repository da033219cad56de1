"""How surprised every head is by a text that is known to be right.

Prompt and text go through the trunk once, as one document; the logits of one block of
rows of one head are held.

Axes: L positions, K heads, R positions that a head predicts from, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch

from shared.evaluation.results.of_problems import HeadMeasure
from shared.evaluation.tasks.solutions import Measure
from wmtp_torch_mps.heads import head_states, unembeddings
from wmtp_torch_mps.model import WMTP, forward
from wmtp_torch_mps.precision import multiplying, rounds_by_hand
from wmtp_torch_mps.unembed import block_rows, pads, rank_rows

BUCKET = 64  # MPS compiles every length, and keeps it in memory


def make_measure(model: WMTP) -> Measure:
    """A function `(prompt, text) -> measures`, one of each head.

    Head k predicts token j from the position j - 1 - k: the first tokens of the text
    from within the prompt, and none from before its beginning.
    """
    device, name = model.device, model.cfg.machine.dtype
    most = model.cfg.model.max_positions + 1  # the last token is only a target
    dtype = torch.float16 if name == "float16" else model.base.dtype

    @torch.no_grad()
    def measure(prompt: Sequence[int], text: Sequence[int]) -> tuple[HeadMeasure, ...]:
        tokens, begin = [*prompt, *text], len(prompt)
        if not prompt or not text or len(tokens) > most:
            raise ValueError(
                f"prompt and text must have 1 to {most} tokens together, and one each, "
                f"got {len(prompt)} and {len(text)}"
            )
        last = len(tokens) - 1
        L = -(-last // BUCKET) * BUCKET if pads(device) else last
        tokens_L = torch.zeros(min(L, most - 1), dtype=torch.int64)
        tokens_L[:last] = torch.tensor(tokens[:last])
        document_L = (torch.arange(len(tokens_L)) < last).to(torch.int32)
        positions_L = torch.arange(len(tokens_L)) * document_L
        rows = (x[None].to(device) for x in (tokens_L, positions_L, document_L))
        states = head_states(model, forward(model, *rows))
        found = []
        for k, (state_BLD, unembed_VD) in enumerate(
            zip(states, unembeddings(model), strict=True)
        ):
            first = max(begin, 1 + k)
            if first >= len(tokens):
                found.append(HeadMeasure(nll=0.0, targets=0, right=0, rank=0))
                continue
            targets_R = torch.tensor(tokens[first:]).to(device)
            states_RD = state_BLD[0, first - 1 - k : len(tokens) - 1 - k].to(dtype)
            block = block_rows(len(tokens_L), model.cfg.model.vocab_size)
            with multiplying(device, name):
                ranked = rank_rows(
                    states_RD,
                    unembed_VD,
                    targets_R,
                    block=block,
                    rounded=rounds_by_hand(device, name),
                )
            found.append(_sums(*(x.cpu().numpy() for x in ranked)))
        return tuple(found)

    return measure


def _sums(nll_R: np.ndarray, right_R: np.ndarray, rank_R: np.ndarray) -> HeadMeasure:
    """Summed in float64, which MPS does not have."""
    return HeadMeasure(
        nll=float(nll_R.sum(dtype=np.float64)),
        targets=len(nll_R),
        right=int(right_R.sum()),
        rank=int(rank_R.sum()),
    )
