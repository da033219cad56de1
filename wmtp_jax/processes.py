"""Several processes that train one model: `jax.distributed`, and what they share.

    with joined(launch) as peers:
        train(..., peers=peers)
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from shared.messages import first_line
from shared.run.launch import Launch, is_loopback
from shared.run.peers import ALONE, Peers

log = logging.getLogger("wmtp")
CONNECT = 300  # seconds within which all processes must have come
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
    _initialize(launch)
    from jax._src.distributed import global_state  # nothing public holds the client

    yield Peers(
        index=launch.index,
        count=launch.count,
        board=KeyValues(global_state.client),
        ask=_make_ask(),
        is_of_peers=is_of_peers,
    )
    jax.distributed.shutdown()


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
    """Whether a collective operation has failed because a peer is gone."""
    if not isinstance(error, (jax.errors.JaxRuntimeError, ValueError, RuntimeError)):
        return False
    return any(word in str(error) for word in LOST)


def _make_ask() -> Callable[[bool], Callable[[], bool]]:
    """A vote of all processes, in the order of the device's other work."""
    mesh = Mesh(np.array(jax.devices()), ("all",))
    split = NamedSharding(mesh, PartitionSpec("all"))
    whole = NamedSharding(mesh, PartitionSpec())
    count = jax.jit(jnp.any, out_shardings=whole)

    def ask(told: bool) -> Callable[[], bool]:
        here = np.full(jax.local_device_count(), told)
        answer = count(jax.make_array_from_process_local_data(split, here))
        return lambda: bool(answer)

    return ask
