"""Passes of frozen models split their rows over four devices, and say the same."""

import numpy as np

from shared.config.fields import DataConfig
from tests.four_devices import said_on_four
from tests.small import drawn_params, small_batch, small_config
from wmtp_jax import sharding
from wmtp_jax.reference import ANSWERS

PASSES = """
import jax, numpy as np
from shared.config.fields import DataConfig
from tests.four_devices import said_on_four
from tests.small import drawn_params, small_batch, small_config
from wmtp_jax import reference, sharding
cfg = small_config(heads=1, data=DataConfig(max_length=16, batch_size=4))
params = drawn_params(cfg)
params["score"] = np.cos(np.arange(cfg.model.width, dtype="f4"))
rows = []

def told(run):
    def see(params, batch, *more, **named):
        jax.debug.inspect_array_sharding(
            batch.tokens_BL, callback=lambda s: rows.append(s.shard_shape((4, 16))[0])
        )
        return run(params, batch, *more, **named)
    return see

reference.run_trunk, reference.run_heads = map(
    told, (reference.run_trunk, reference.run_heads)
)
mesh = sharding.make_mesh(cfg)
params = jax.device_put(params, sharding.replicated(mesh))
for make in reference.ANSWERS.values():
    answer_BL = np.asarray(make(params, cfg, mesh)(small_batch(rows=4)))
    rows += answer_BL.sum(1).tolist()
print(*rows)
"""


def test_four_devices_share_the_rows_and_answer_the_same():
    found = [float(x) for x in said_on_four(PASSES).split()]
    cfg = small_config(heads=1, data=DataConfig(max_length=16, batch_size=4))
    params = drawn_params(cfg)
    params["score"] = np.cos(np.arange(cfg.model.width, dtype="f4"))
    mesh = sharding.make_mesh(cfg)
    for answer, said in zip(ANSWERS.values(), (found[:5], found[5:]), strict=True):
        right_B = np.asarray(answer(params, cfg, mesh)(small_batch(rows=4))).sum(1)
        assert said[0] == 1 and right_B.all()  # rows of a device
        np.testing.assert_allclose(said[1:], right_B, atol=1e-4)
