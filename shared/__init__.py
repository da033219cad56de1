"""What both trainers share: formulas, targets, config, data, signals, tracking.

Axis letters, used as name suffixes everywhere (`nll_BLK`, `tokens_BL`):

    B  rows of a batch             V  vocabulary
    L  positions of a row          D  model width
    K  prediction heads            N  attention heads
    S  documents packed in a row   H  width of one attention head
    R  rows of states (B * L)      F  feed-forward width

A reduced axis that is kept is written 1 (`total_B11`). Head `k` at position `l`
predicts token `l + 1 + k`. Nothing here imports jax or torch.
"""
