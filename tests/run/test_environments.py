"""Each environment that starts several processes, as a dict of its variables."""

from unittest import mock

import pytest
from jax._src.clusters.ompi_cluster import OmpiCluster
from jax._src.clusters.slurm_cluster import SlurmCluster

from shared.run.environments import ENVIRONMENTS
from shared.run.launch import Launch, choose_launch, find_launch, is_loopback

JAX = {
    "JAX_COORDINATOR_ADDRESS": "train-0.train:3389",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
JOB = {
    "JAX_COORDINATOR_ADDRESS": "train-workers-0-0.train",
    "JAX_NUM_PROCESSES": "2",
    "JOB_COMPLETION_INDEX": "1",
}
SKYPILOT = {
    "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NODE_RANK": "1",
    "SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.7\n",
    "SKYPILOT_NUM_GPUS_PER_NODE": "8",
}
OPEN_MPI_4 = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
OPEN_MPI_5 = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "prterun-here-4711@1",
}
SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[007-008],gpu12",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
    "SLURM_NTASKS": "6",
    "SLURM_NODEID": "2",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(
    ("variables", "coordinator", "count", "index", "devices"),
    [
        (JAX, "train-0.train:3389", 4, 3, None),
        (JOB, "train-workers-0-0.train:8476", 2, 1, None),
        (SKYPILOT, "10.0.0.4:8476", 2, 1, None),
        (OPEN_MPI_4, "10.96.0.1:62624", 4, 3, (1,)),
        (OPEN_MPI_5, "127.0.0.1:65466", 2, 1, (1,)),
        (SLURM, "gpu007:62016", 6, 5, (1,)),
    ],
    ids=["jax", "job", "skypilot", "mpi4", "mpi5", "slurm"],
)
def test_an_environment(variables, coordinator, count, index, devices):
    launch = find_launch(variables)
    assert launch == Launch(
        coordinator=coordinator,
        count=count,
        index=index,
        source=launch.source,
        devices=devices,
    )
    assert launch.source in [row.name for row in ENVIRONMENTS]


@pytest.mark.parametrize(
    ("variables", "cluster"), [(OPEN_MPI_4, OmpiCluster), (SLURM, SlurmCluster)]
)
def test_what_jax_reads_itself_is_the_same(variables, cluster):
    with mock.patch.dict("os.environ", variables, clear=True):
        assert cluster.is_env_present()
        theirs = (
            cluster.get_coordinator_address(1, None),
            cluster.get_process_count(),
            cluster.get_process_id(),
            (cluster.get_local_process_id(),),
        )
    ours = find_launch(variables)
    assert (ours.coordinator, ours.count, ours.index, ours.devices) == theirs


def test_nothing_or_one_process_is_none():
    shell = SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}  # of salloc
    batch = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
    for variables in ({}, shell, batch, SKYPILOT | {"SKYPILOT_NUM_NODES": "1"}):
        assert find_launch(variables) is None
        assert choose_launch("auto", 0, -1, variables) is None
        with pytest.raises(ValueError, match="needs an environment of several"):
            choose_launch("required", 0, -1, variables)
    assert choose_launch("off", 0, -1, SLURM) is None


def test_a_port_or_an_address_of_jax_goes_first():
    found = find_launch(SLURM | {"JAX_COORDINATOR_PORT": "7000"})
    assert found.coordinator == "gpu007:7000"
    found = find_launch(SKYPILOT | {"JAX_COORDINATOR_ADDRESS": "[fd00::7]:7001"})
    assert found.coordinator == "[fd00::7]:7001"
    within = SLURM | OPEN_MPI_4  # mpirun in an allocation
    assert find_launch(within).source == "Open MPI"


@pytest.mark.parametrize(
    ("visible", "devices"),
    [("0", None), ("0,1", (1,)), ("0,1,2,3", (2, 3)), ("", (1,))],
)
def test_accelerators_are_shared_out(visible, devices):
    found = find_launch(SLURM | {"CUDA_VISIBLE_DEVICES": visible})
    assert found.devices == devices
    alone = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x6)", "SLURM_NODEID": "5"}
    assert find_launch(alone | {"CUDA_VISIBLE_DEVICES": visible}).devices is None


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (JAX | {"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID must be below"),
        (JAX | {"JAX_PROCESS_ID": "x"}, "JAX_PROCESS_ID must be a whole number"),
        (JAX | {"JAX_COORDINATOR_ADDRESS": ""}, "needs JAX_COORDINATOR_ADDRESS"),
        ({"JAX_NUM_PROCESSES": "2"}, "needs JAX_PROCESS_ID or JOB_COMPLETION_INDEX"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "needs SLURM_PROCID, got none"),
        (OPEN_MPI_5 | {"OMPI_COMM_WORLD_SIZE": "4"}, "version 5 does not say"),
        (SLURM | {"JAX_COORDINATOR_ADDRESS": "localhost:1"}, "several machines"),
        (SKYPILOT | {"JAX_COORDINATOR_ADDRESS": "127.0.1.1:1"}, "several machines"),
        (OPEN_MPI_4 | {"JAX_COORDINATOR_ADDRESS": "[::1]:1"}, "several machines"),
        (JOB | {"JAX_COORDINATOR_ADDRESS": "0.0.0.0:1"}, "several machines"),
    ],
)
def test_what_cannot_be_is_refused(variables, said):
    with pytest.raises(ValueError, match=said):
        find_launch(variables)


def test_processes_of_one_machine_may_meet_at_loopback():
    found = choose_launch("localhost:7000", 2, 1, {})
    assert (found.coordinator, found.count, found.index) == ("localhost:7000", 2, 1)
    assert is_loopback(found.coordinator)
    assert choose_launch("localhost:7000", 1, 0, {}) is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("host", 2, 0), "must be auto, off, required or HOST:PORT"),
        (("host:1", 0, -1), "needs --processes N and --process I"),
        (("host:1", 2, 2), "0 <= I < N"),
        (("auto", 2, -1), "--processes and --process need"),
    ],
)
def test_options_that_do_not_fit(asked, said):
    with pytest.raises(ValueError, match=said):
        choose_launch(*asked, {})
