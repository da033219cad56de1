"""What the head pass holds beside its gradients, counted by XLA: nothing is run.

    python -m benchmarks.head_memory                   # B 8, L 1024, K 4, V 50 257
    python -m benchmarks.head_memory --seconds --batch 4 --length 256

`temporary` is what the compiled loss and gradient need beside arguments and results
(states and unembeddings in, their gradients out); `of the logits` is that over the
logits of all rows and heads in float32. `--seconds` also runs each.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks import floor, workload
from benchmarks.runs import print_table
from benchmarks.timing import Times, ratio, spread, take_turns
from shared.config.fields import Config
from wmtp_jax import unembed

MIB = 1024**2


def main() -> None:
    parser = workload.parser(__doc__, batch=8, length=1024)
    parser.add_argument("--seconds", action="store_true", help="run them, too")
    asked = parser.parse_args()
    cfg = workload.config(asked)
    logits = 4 * asked.batch * asked.length * asked.heads * cfg.model.vocab_size
    table, runs = [], {}
    for kind in ("linear", "shared"):
        given = arguments(cfg, own=kind == "linear")
        for name, total in WAYS.items():
            gradient = jax.value_and_grad(total, (0, 1, 2), allow_int=True)
            compiled = jax.jit(gradient).lower(*given).compile()
            memory = compiled.memory_analysis()
            label = f"{kind} heads, {name}"
            runs[label] = partial(run, compiled, given)
            temporary, results = (
                memory.temp_size_in_bytes,
                memory.output_size_in_bytes,
            )
            table.append(
                {
                    "loss and gradient": label,
                    "temporary MiB": round(temporary / MIB),
                    "of the logits": f"{temporary / logits:.1%}",
                    "gradients MiB": round(results / MIB),
                }
            )
    print(f"{workload.title(asked)}; all logits are {logits / MIB:.0f} MiB\n")
    if asked.seconds:
        rows = asked.batch * asked.length
        runs = {"products": floor.products(cfg, rows), **runs}
        counted: Times = {}
        times = take_turns(runs, rounds=asked.rounds, counted=counted)
        flops = [asked.heads * n for n in counted["products"]]
        products = (times["products"], counted["products"])
        for row in table:
            name = row["loss and gradient"]
            first = next(x for x in times if x.split(",")[0] == name.split(",")[0])
            share = floor.share_of_floor(times[name], flops, *products)
            row |= spread(times[name])
            row["of the floor"] = f"{share:.0%}"
            row["over ours"] = round(ratio(times, name, first), 2)
    print_table(table, asked.json)


def arguments(cfg: Config, *, own: bool) -> tuple[jax.ShapeDtypeStruct | None, ...]:
    """Shapes of states_KBLD, shared_VD, own_KVD and targets_BLK."""
    B, L, K = cfg.data.batch_size, cfg.data.max_length, cfg.heads.count
    D, V = cfg.model.width, cfg.model.vocab_size
    shape = jax.ShapeDtypeStruct
    return (
        shape((K, B, L, D), cfg.machine.dtype),
        shape((V, D), jnp.float32),
        shape((K - 1, V, D), jnp.float32) if own and K > 1 else None,
        shape((B, L, K), jnp.int32),
    )


def run(compiled: Callable[..., object], shapes: tuple) -> None:
    """Once, with numbers that change nothing about how long it takes."""
    given = [
        None if x is None else jnp.full(x.shape, 0.01).astype(x.dtype) for x in shapes
    ]
    jax.block_until_ready(compiled(*given))


def _ours(states_KBLD, shared_VD, own_KVD, targets_BLK):
    factor_BLK = jnp.ones(targets_BLK.shape)
    total, _ = unembed.weighted_nll_heads(
        states_KBLD, targets_BLK, factor_BLK > 0, factor_BLK, shared_VD, own_KVD
    )
    return total


def _logits_kept(states_KBLD, shared_VD, own_KVD, targets_BLK):
    """Autodiff over the logits of one head after the other."""

    def of_head(states_BLD, matrix_VD, targets_BL):
        logits_BLV = (states_BLD @ matrix_VD.T.astype(states_BLD.dtype)).astype("f4")
        log_p_BLV = jax.nn.log_softmax(logits_BLV)
        return -jnp.sum(jnp.take_along_axis(log_p_BLV, targets_BL[..., None], axis=2))

    return _sum_of_heads(of_head, states_KBLD, shared_VD, own_KVD, targets_BLK)


def _jax_cce(states_KBLD, shared_VD, own_KVD, targets_BLK):
    from jax_cce import linear_cross_entropy

    def of_head(states_BLD, matrix_VD, targets_BL):
        states_RD = states_BLD.reshape(-1, states_BLD.shape[-1])
        mean = linear_cross_entropy(states_RD, matrix_VD, targets_BL.reshape(-1))
        return targets_BL.size * mean

    return _sum_of_heads(of_head, states_KBLD, shared_VD, own_KVD, targets_BLK)


def _sum_of_heads(of_head, states_KBLD, shared_VD, own_KVD, targets_BLK):
    total = 0.0
    for k, states_BLD in enumerate(states_KBLD):
        matrix_VD = shared_VD if k == 0 or own_KVD is None else own_KVD[k - 1]
        total += of_head(states_BLD, matrix_VD, targets_BLK[..., k])
    return total


WAYS = {"ours": _ours, "jax-cce": _jax_cce, "logits kept": _logits_kept}


if __name__ == "__main__":
    main()
