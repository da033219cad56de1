"""How one process of several is started: by the environment, or by three options."""

import ipaddress
import re
from dataclasses import dataclass

from shared.run.environments import (
    ADDRESS,
    ENVIRONMENTS,
    Environment,
    Variables,
    address_of,
    number_of,
    own_devices,
    pods,
)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One process among those that train together.

    Attributes:
      coordinator: HOST:PORT where the first process answers the others.
      count: of processes.
      index: of this one; 0 is the first.
      source: what said so.
      devices: numbers of the accelerators on its machine that are its own; None: all
        that it sees.
    """

    coordinator: str
    count: int
    index: int
    source: str
    devices: tuple[int, ...] | None = None


def find_launch(variables: Variables) -> Launch | None:
    """What the environment says; None if it knows of one process, or nothing.

    Raises:
      ValueError: if it says something that cannot be, or leaves something out.
    """
    for row in ENVIRONMENTS:
        if row.count in variables and (count := number_of(variables, row.count)) > 1:
            return _launch(row, count, variables)
    return None


def asked_launch(option: str, count: int, index: int, variables: Variables) -> Launch:
    """What `--distributed HOST:PORT --processes N --process I` says.

    Raises:
      ValueError: if one of the three is missing, or cannot be.
    """
    if not re.fullmatch(r"(\S+):[0-9]{1,5}", option):
        raise ValueError(
            "--distributed must be auto, off, required or HOST:PORT of the first "
            f"process, got {option!r}"
        )
    if count < 1 or not 0 <= index < count:
        raise ValueError(
            f"--distributed {option} needs --processes N and --process I with "
            f"0 <= I < N, got N = {count} and I = {index}"
        )
    launch = Launch(
        coordinator=option, count=count, index=index, source="--distributed"
    )
    require_reachable(launch, pods(variables, index, count))
    return launch


def choose_launch(
    option: str, count: int, index: int, variables: Variables
) -> Launch | None:
    """What `--distributed` asks for; None where one process trains alone.

    Args:
      option: `auto`, `off`, `required` (found in the environment, or refused), or an
        address.
      count, index: of `--processes` and `--process`; 0 and -1 where not given.

    Raises:
      ValueError: if it cannot be, or `required` finds nothing.
    """
    if option not in ("auto", "off", "required"):
        launch = asked_launch(option, count, index, variables)
        return launch if launch.count > 1 else None
    if count or index >= 0:
        raise ValueError(
            "--processes and --process need --distributed HOST:PORT, got --distributed "
            f"{option}"
        )
    if option == "off":
        return None
    found = find_launch(variables)
    if found is None and option == "required":
        names = ", ".join(f"{row.count} ({row.name})" for row in ENVIRONMENTS)
        raise ValueError(
            "--distributed needs an environment of several processes, got none: one of "
            f"{names} must be > 1, or give HOST:PORT, --processes and --process"
        )
    return found


def require_reachable(launch: Launch, hosts: int) -> None:
    """Refuses an address that means each machine itself where there are several.

    Raises:
      ValueError: if so; no other machine would ever find the first process.
    """
    if hosts > 1 and is_loopback(launch.coordinator):
        raise ValueError(
            "the first process must have an address that other machines reach, got "
            f"{launch.coordinator} for {launch.count} processes on several machines "
            f"(from {launch.source}; {ADDRESS} can name another)"
        )


def is_loopback(address: str) -> bool:
    """Whether `HOST:PORT` means the machine that reads it.

    Example:
      >>> is_loopback("127.0.1.1:80"), is_loopback("[::1]:80"), is_loopback("node1:80")
      (True, True, False)
    """
    host = address.rpartition(":")[0].strip("[]").lower()
    try:
        at = ipaddress.ip_address(host)
    except ValueError:
        return host.split(".")[0] == "localhost" or host.endswith(".localhost")
    return at.is_loopback or at.is_unspecified


def _launch(row: Environment, count: int, variables: Variables) -> Launch:
    name = next((x for x in row.index if x in variables), None)
    if name is None:
        raise ValueError(
            f"{row.count} = {count} ({row.name}) needs {' or '.join(row.index)}, "
            "got none"
        )
    index = number_of(variables, name)
    if index >= count:
        raise ValueError(
            f"{name} must be below {row.count} = {count}, got {index} ({row.name})"
        )
    launch = Launch(
        coordinator=address_of(row, variables),
        count=count,
        index=index,
        source=row.name,
        devices=own_devices(*row.local(variables), variables),
    )
    require_reachable(launch, row.hosts(variables))
    return launch
