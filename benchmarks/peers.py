"""The same training step as others would write it, in the simplest good form.

Each maker returns a function without arguments that makes one update and waits for it.

Axes: B rows, L positions, K heads, V vocabulary.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from shared.batches import Batch
from shared.config import Config
from wmtp_jax import heads, loss, sharding
from wmtp_jax.optimizer import make_optimizer
from wmtp_jax.start import init_params
from wmtp_jax.state import make_state
from wmtp_jax.step import make_train_step

Step = Callable[[], object]


def ours(cfg: Config, batch: Batch) -> Step:
    """`wmtp_jax`'s step."""
    tx = make_optimizer(cfg, 1000)
    mesh = sharding.make_mesh(cfg)
    step, _ = make_train_step(cfg, tx, 1000, mesh)
    state = [jax.device_put(make_state(cfg, tx), sharding.replicated(mesh))]

    def run() -> None:
        state[0], metrics = step(state[0], batch)
        jax.block_until_ready((state[0].params, metrics))

    return run


def jax_naive(cfg: Config, batch: Batch) -> Step:
    """Uniform MTP with autodiff: the logits of every head are kept."""
    tx = make_optimizer(cfg, 1000)
    first = jax.tree.map(lambda x: jnp.asarray(x[0]), batch)

    def mean_nll(params):
        outputs = loss.run_trunk(params, first, cfg)
        states_KBLD = heads.head_states(params, outputs, cfg)
        shared_VD, own_KVD = heads.unembeddings(params)
        targets_BLK, mask_BLK = loss.targets_of(first, cfg)
        total = 0.0
        for k in range(cfg.heads.count):
            matrix_VD = shared_VD if k == 0 or own_KVD is None else own_KVD[k - 1]
            nll_BL = optax.softmax_cross_entropy_with_integer_labels(
                states_KBLD[k] @ matrix_VD.T, targets_BLK[:, :, k]
            )
            total += jnp.sum(jnp.where(mask_BLK[:, :, k], nll_BL, 0.0))
        return total / jnp.sum(mask_BLK)

    def update(params, opt_state):
        value, gradient = jax.value_and_grad(mean_nll)(params)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    params = jax.jit(lambda: init_params(cfg))()
    held = [params, tx.init(params)]
    step = jax.jit(update, donate_argnums=(0, 1))

    def run() -> None:
        *held[:], value = step(*held)
        jax.block_until_ready((held, value))

    return run


def torch_naive(cfg: Config, batch: Batch, *, compiled: bool = False) -> Step:
    """Uniform MTP as a user of `transformers` writes it: stacked logits, fused AdamW.

    Without dropout, as ours; `compiled` puts `torch.compile` around model and loss.
    """
    import torch
    from torch.nn import functional

    from wmtp_torch_mps.model import WMTP

    model, K = WMTP(cfg), cfg.heads.count
    model.eval()
    tokens_BL = torch.from_numpy(batch.tokens_BL[0]).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.optimizer.lr, fused=True)

    def mean_nll():
        hidden_BLD = model.base.base_model(tokens_BL, use_cache=False).last_hidden_state
        logits = [model.base.get_output_embeddings()(hidden_BLD)]
        logits += [head(hidden_BLD) for head in model.mtp_heads.values()]
        logits_BLKV = torch.stack(logits, dim=2)
        targets_BLK = torch.stack(
            [
                functional.pad(tokens_BL[:, 1 + k :], (0, 1 + k), value=-100)
                for k in range(K)
            ],
            dim=2,
        )
        return functional.cross_entropy(
            logits_BLKV.flatten(0, 2), targets_BLK.flatten()
        )

    objective = torch.compile(mean_nll) if compiled else mean_nll

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        objective().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.optimizer.clip_norm)
        optimizer.step()

    return run
