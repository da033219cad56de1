"""What tells a process of the others: a row for each way of starting several.

    environment        how many                which                 where the first is
    JAX, Kubernetes    JAX_NUM_PROCESSES       JAX_PROCESS_ID, or    JAX_COORDINATOR_
                                               JOB_COMPLETION_INDEX  ADDRESS
    SkyPilot           SKYPILOT_NUM_NODES      SKYPILOT_NODE_RANK    SKYPILOT_NODE_IPS
    Open MPI           OMPI_COMM_WORLD_SIZE    OMPI_COMM_WORLD_RANK  OMPI_MCA_orte_
                                                                     hnp_uri
    SLURM              SLURM_STEP_NUM_TASKS    SLURM_PROCID          SLURM_STEP_
                                                                     NODELIST

JAX itself reads Open MPI 4 and SLURM alone; addresses here are the same as its own. It
differs in three things: a shell of `salloc` is one process here (JAX waits for the
tasks of the whole job), a list of nodes may have several brackets, and one process on
a machine takes all of its devices, not the first.

JAX_COORDINATOR_ADDRESS goes before every address found, JAX_COORDINATOR_PORT before
every port.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Variables = Mapping[str, str]
ADDRESS, PORT = "JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_PORT"
USUAL_PORT = "8476"
# Above those that Linux gives to programs which ask for any.
FIRST_PORT, PORTS = 61440, 4096
ACCELERATORS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What one way of starting processes calls things.

    Attributes:
      name: as people know it.
      count, index: variables; of several for the index, the first that is there.
      first: `HOST`, or `HOST:PORT`, of the first process.
      hosts: how many machines; 0 if nothing says so.
      local: index of the process on its machine, and how many are there.
    """

    name: str
    count: str
    index: tuple[str, ...]
    first: Callable[[Variables], str]
    hosts: Callable[[Variables], int]
    local: Callable[[Variables], tuple[int, int]]


def first_host(nodes: str) -> str:
    """The first of a list of nodes as SLURM writes it.

    Example:
      >>> first_host("gpu[007-015,020],cpu1"), first_host("rack[2-3]n[01-08]")
      ('gpu007', 'rack2n01')
    """
    alone = re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", nodes)
    return alone.split(",")[0]


def tasks_on(node: int, tasks: str) -> int:
    """Tasks on the node of that number, from a list as SLURM writes it.

    Example:
      >>> [tasks_on(node, "2(x3),1") for node in range(4)]
      [2, 2, 2, 1]
    """
    numbers: list[int] = []
    for part in tasks.split(","):
        number, _, times = part.partition("(x")
        numbers += [int(number)] * int(times.rstrip(")") or 1)
    return numbers[node]


def own_devices(index: int, count: int, variables: Variables) -> tuple[int, ...] | None:
    """The accelerators of one of `count` processes on a machine; None: all it sees.

    Where a variable lists those of the machine they are shared out; where it lists
    fewer than there are processes, whoever started them has done that.
    """
    if count < 2 or "JAX_LOCAL_DEVICE_IDS" in variables:  # which JAX reads itself
        return None
    listed = next((variables[x] for x in ACCELERATORS if variables.get(x)), "")
    each = len(listed.split(",")) // count if listed else 1
    return tuple(range(index * each, (index + 1) * each)) or None


def address_of(row: Environment, variables: Variables) -> str:
    """With a port; a name or an IPv4 address has no colon of its own."""
    address = variables.get(ADDRESS) or row.first(variables)
    if not re.search(r"(^[^:]+|\]):[0-9]+$", address):
        address = f"{address}:{variables.get(PORT, USUAL_PORT)}"
    return address


def number_of(variables: Variables, name: str) -> int:
    text = variables.get(name, "")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{name} must be a whole number >= 0, got {text!r}")
    return int(text)


def _needed(variables: Variables, name: str, of: str) -> str:
    if not variables.get(name):
        raise ValueError(f"{of} needs {name}, got none ({ADDRESS} may stand instead)")
    return variables[name]


def port_of(number: int, variables: Variables) -> str:
    return variables.get(PORT, str(FIRST_PORT + number % PORTS))


def _alone(variables: Variables) -> tuple[int, int]:
    return 0, 1


def pods(variables: Variables, index: int, count: int) -> int:
    """Each pod of an indexed Kubernetes Job is a machine of its own."""
    return count if variables.get("JOB_COMPLETION_INDEX") == str(index) else 0


def _of_jax(variables: Variables) -> str:
    return _needed(variables, ADDRESS, "JAX_NUM_PROCESSES")


def _jax_hosts(variables: Variables) -> int:
    index = variables.get("JAX_PROCESS_ID") or variables["JOB_COMPLETION_INDEX"]
    return pods(variables, int(index), number_of(variables, "JAX_NUM_PROCESSES"))


def _of_skypilot(variables: Variables) -> str:
    return _needed(variables, "SKYPILOT_NODE_IPS", "SKYPILOT_NUM_NODES").split()[0]


def _of_open_mpi(variables: Variables) -> str:
    """Where `mpirun` runs; version 5 tells it no more, and one machine needs it not."""
    launcher = variables.get("OMPI_MCA_orte_hnp_uri", "")
    found = re.search(r"tcp://(.+?)[,:]|tcp6://\[(.+?)[,\]]", launcher)
    if found is not None:
        job = int(launcher.split(".")[0]) // PORTS
        host = found[1] or f"[{found[2]}]"
        return f"{host}:{port_of(job, variables)}"
    if _open_mpi_hosts(variables) > 1:
        raise ValueError(
            "Open MPI of version 5 does not say where the first process is: "
            f"mpirun -x {ADDRESS}=HOST:PORT ... must, got none"
        )
    job = zlib.crc32(variables.get("PMIX_NAMESPACE", "").encode())
    return f"127.0.0.1:{port_of(job, variables)}"


def _open_mpi_hosts(variables: Variables) -> int:
    _, here = _open_mpi_local(variables)
    return -(-number_of(variables, "OMPI_COMM_WORLD_SIZE") // here)


def _open_mpi_local(variables: Variables) -> tuple[int, int]:
    return (
        number_of(variables, "OMPI_COMM_WORLD_LOCAL_RANK"),
        max(1, number_of(variables, "OMPI_COMM_WORLD_LOCAL_SIZE")),
    )


def _of_slurm(variables: Variables) -> str:
    """One port for each step of a job: two may run at the same time."""
    host = first_host(_needed(variables, "SLURM_STEP_NODELIST", "SLURM"))
    step = variables.get("SLURM_STEP_ID", "0")
    job = number_of(variables, "SLURM_JOB_ID") + int(step)
    return f"{host}:{port_of(job, variables)}"


def _slurm_local(variables: Variables) -> tuple[int, int]:
    tasks = variables.get("SLURM_STEP_TASKS_PER_NODE", "1")
    node = int(variables.get("SLURM_NODEID", "0"))
    return int(variables.get("SLURM_LOCALID", "0")), tasks_on(node, tasks)


ENVIRONMENTS = (
    Environment(
        name="JAX, Kubernetes",
        count="JAX_NUM_PROCESSES",
        index=("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX"),
        first=_of_jax,
        hosts=_jax_hosts,
        local=_alone,
    ),
    Environment(
        name="SkyPilot",
        count="SKYPILOT_NUM_NODES",
        index=("SKYPILOT_NODE_RANK",),
        first=_of_skypilot,
        hosts=lambda variables: number_of(variables, "SKYPILOT_NUM_NODES"),
        local=_alone,
    ),
    Environment(  # before SLURM, within which mpirun may start processes
        name="Open MPI",
        count="OMPI_COMM_WORLD_SIZE",
        index=("OMPI_COMM_WORLD_RANK",),
        first=_of_open_mpi,
        hosts=_open_mpi_hosts,
        local=_open_mpi_local,
    ),
    Environment(
        name="SLURM",
        count="SLURM_STEP_NUM_TASKS",
        index=("SLURM_PROCID",),
        first=_of_slurm,
        hosts=lambda variables: number_of(variables, "SLURM_STEP_NUM_NODES"),
        local=_slurm_local,
    ),
)
