"""Several processes that train one model: `jax.distributed`, and what they share.

    with joined(launch) as peers:
        train(..., peers=peers)

Arrays that lie on the devices of several processes are made of what each of them has:
`spread` of the whole, `spread_rows` of a process' own rows. With one process both are
what JAX does by itself.
"""

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.distributed import global_state  # nothing public holds the client
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from shared.data.batches import Batch
from shared.messages import first_line, named_line
from shared.run.launch import Launch, is_loopback
from shared.run.leave import leave
from shared.run.peers import ALONE, Peers, Stalled
from shared.tracking import console

log = logging.getLogger("wmtp")
CONNECT = 300  # seconds within which all processes must have come
# Errors that the command line tells the user of.
TOLD = (ValueError, FloatingPointError, MemoryError, OSError, Stalled)
FOLDER = "wmtp/"  # of our words among JAX's own
# Beginnings and middles of what collective operations say when a peer is gone.
LOST = (
    *("Gloo", "NCCL", "nccl", "RCCL", "Connection reset", "Connection closed"),
    *("coordination service", "heartbeat", "Socket closed", "DEADLINE_EXCEEDED"),
    *("Barrier", "UNAVAILABLE", "collective"),
)


@dataclass(frozen=True)
class KeyValues:
    """A `Board`: JAX's own store of words, which lives in the first process."""

    client: Any

    def put(self, key: str, text: str) -> None:
        self.client.key_value_set(FOLDER + key, text, allow_overwrite=True)

    def get(self, key: str, seconds: float) -> str:
        return self.client.blocking_key_value_get(FOLDER + key, int(1000 * seconds))

    def under(self, prefix: str) -> dict[str, str]:
        found = self.client.key_value_dir_get(f"{FOLDER}{prefix}/")
        return {key.rpartition("/")[2]: text for key, text in found}

    def meet(self, name: str, seconds: float) -> None:
        self.client.wait_at_barrier(FOLDER + name, int(1000 * seconds))


@contextmanager
def joined(launch: Launch | None) -> Iterator[Peers]:
    """Joins the other processes of a launch; of none, this one is alone.

    JAX must not have been asked for devices before.

    Raises:
      ValueError: if they do not find each other.
    """
    if launch is None:
        yield ALONE
        return
    # Without it CPUs of several processes have no collective operations at all.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if launch.index:
        console.follow(f"process {launch.index}")
    _initialize(launch)
    peers = Peers(
        index=launch.index,
        count=launch.count,
        board=KeyValues(global_state.client),
        ask=_make_ask(),
        is_of_peers=is_of_peers,
    )
    try:
        yield peers
    except TOLD:
        raise
    except Exception as error:  # a fault of ours: nobody else waits for this process
        traceback.print_exc()
        leave(peers, 1, named_line(error))
    jax.distributed.shutdown()


def leave_peers(code: int, line: str) -> None:
    """Ends this process at once, if it has peers; they are told why."""
    if (client := global_state.client) is None:
        return
    count, index = global_state.num_processes, global_state.process_id
    leave(Peers(index=index, count=count, board=KeyValues(client)), code, line)


def _initialize(launch: Launch) -> None:
    began = time.perf_counter()
    try:
        jax.distributed.initialize(
            coordinator_address=launch.coordinator,
            num_processes=launch.count,
            process_id=launch.index,
            local_device_ids=launch.devices,
            cluster_detection_method="deactivate",
            initialization_timeout=CONNECT,
        )
    except (RuntimeError, ValueError) as error:
        loopback = is_loopback(launch.coordinator)
        why = " (on each machine that is itself)" if loopback else ""
        raise ValueError(
            f"process {launch.index} of {launch.count} must meet the others at "
            f"{launch.coordinator}{why} within {CONNECT} s (found from "
            f"{launch.source}), got: {first_line(error)[:200]}"
        ) from error
    log.info(
        "process %d of %d (from %s), %d of %d devices, the first at %s, after %.1f s",
        launch.index,
        launch.count,
        launch.source,
        jax.local_device_count(),
        jax.device_count(),
        launch.coordinator,
        time.perf_counter() - began,
    )


def is_of_peers(error: BaseException) -> bool:
    """Whether a collective operation has failed because a peer is gone.

    It may be what another error was made of.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (ValueError, RuntimeError, OSError)):
            if any(word in str(seen) for word in LOST):
                return True
        seen = seen.__cause__ or seen.__context__
    return False


def spread(tree: Any, shardings: Any) -> Any:
    """Arrays that every process has whole, as they are to lie on all devices.

    Args:
      shardings: one for each array, or one for all.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    if isinstance(shardings, NamedSharding):
        every = shardings
        shardings = jax.tree.map(lambda _: every, tree)

    def one(x: Any, where: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return x if x.sharding == where else jax.device_put(x, where)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(x), where))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, where, host.__getitem__)

    return jax.tree.map(one, tree, shardings)


def of_first(tree: Any) -> Any:
    """NumPy arrays as the first process has them, in every one."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.broadcast_one_to_all(tree)


def own_rows(sharding: NamedSharding, shape: tuple[int, ...]) -> tuple[int, int]:
    """Which rows of a batch `[..., B, L]` lie on devices of this process.

    Raises:
      ValueError: if they are not consecutive.
    """
    axis, places = len(shape) - 2, sharding.addressable_devices_indices_map(shape)
    pieces = {index[axis].indices(shape[axis])[:2] for index in places.values()}
    start, stop = min(pieces)[0], max(piece[1] for piece in pieces)
    if sum(end - begin for begin, end in pieces) != stop - start:
        raise ValueError(
            "the rows of a process must be consecutive, got pieces "
            f"{sorted(pieces)} of {shape[axis]} (machine.fsdp and machine.tensor)"
        )
    return start, stop


def spread_rows(batch: Batch, sharding: NamedSharding, rows: int) -> Batch:
    """A batch on all devices, of the rows that each process has.

    Args:
      batch: NumPy arrays `[..., b, L]`: the process' own rows, or all of them.
      rows: B, of all processes.
    """
    if jax.process_count() == 1:
        return batch
    return jax.tree.map(lambda x: _spread_one(x, sharding, rows), batch)


def _spread_one(x: Any, sharding: NamedSharding, rows: int) -> jax.Array:
    x = np.asarray(x)
    axis = len(sharding.spec) - 1  # rows are the last that the sharding splits
    if x.shape[axis] == rows:
        return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
    whole = (*x.shape[:axis], rows, *x.shape[axis + 1 :])
    return jax.make_array_from_process_local_data(sharding, x, whole)


def whole_on_host(tree: Any, peers: Peers) -> Any:
    """Every array whole, as NumPy, in the first process; in others none is left.

    All processes take part, array by array: of no two is the whole in memory there.
    """

    def one(x: jax.Array) -> Any:
        if not x.is_fully_addressable and not x.is_fully_replicated:
            x = multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x) if peers.is_first else None

    return jax.tree.map(one, tree)


def pieces_here(x: jax.Array) -> list[Any]:
    """The array, or what of it lies on devices of this process."""
    if x.is_fully_addressable:
        return [x]
    return [shard.data for shard in x.addressable_shards]


def _make_ask() -> Callable[[int], Callable[[], int]]:
    """A vote of all processes, in the order of the device's other work."""
    mesh = Mesh(np.array(jax.devices()), ("all",))
    split = NamedSharding(mesh, PartitionSpec("all"))
    whole = NamedSharding(mesh, PartitionSpec())
    largest = jax.jit(jnp.max, out_shardings=whole)

    def ask(number: int) -> Callable[[], int]:
        here = np.full(jax.local_device_count(), number, np.int32)
        answer = largest(jax.make_array_from_process_local_data(split, here))
        return lambda: int(answer)

    return ask
