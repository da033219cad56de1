"""Records of `shared` that JAX maps over: their arrays are leaves.

Imported for what it does wherever such a record goes through a transformation.
"""

from dataclasses import fields

import jax

from shared.algorithms import Extremes, Sums, Values
from shared.data.batches import Batch

_NUMBER = "num_documents"  # of a batch: a shape, not an array

jax.tree_util.register_dataclass(
    Batch,
    data_fields=[field.name for field in fields(Batch) if field.name != _NUMBER],
    meta_fields=[_NUMBER],
)
for record in (Sums, Extremes, Values):
    jax.tree_util.register_dataclass(record)
