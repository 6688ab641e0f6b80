"""Addresses of Ray clusters and checks that something listens there."""

import os
import socket
import time

from dh2l.errors import UserError
from study.execution.ray_backend import _compat

CONNECT_S = 10.0
"""Timeout of a connection to a cluster's head node, in seconds."""


def is_own(address: str | None) -> bool:
    """Return whether the address means a local Ray, started for one command."""
    return address in (None, "local")


def listening(address: str, patience_s: float) -> str:
    """Return the address of a cluster once something listens there.

    Ray itself would try for minutes. `auto` means `RAY_ADDRESS`, or else the last `ray start` on
    this machine. Ray would also try every Ray among the running processes, such as another user's.

    Args:
        address: HOST:PORT or `auto`; Ray validates other forms.
        patience_s: maximum number of seconds to wait for the cluster.

    Raises:
        UserError: the address is empty, there is no cluster, or nothing listens.
    """
    if not address.strip():
        raise UserError(
            "--address: it is empty; expected HOST:PORT or auto. Leave it out to start Ray on this "
            "machine."
        )
    deadline = time.monotonic() + patience_s
    while True:
        found = address
        if address == "auto":
            found = os.environ.get("RAY_ADDRESS") or _compat.last_started_address() or ""
        problem = _connection_problem(found) if found else ""
        if found and not problem:
            return found
        if time.monotonic() >= deadline:
            raise UserError(_unreachable(found, problem))
        time.sleep(0.5)


def _unreachable(address: str, problem: str) -> str:
    if address:
        return (
            f"the Ray cluster at {address} cannot be reached: {problem}. Pass the HOST:PORT of its "
            "head node."
        )
    return (
        "--address auto: no Ray cluster is known on this machine; expected RAY_ADDRESS, or a "
        "cluster that `ray start` started here. Pass the HOST:PORT of its head."
    )


def _connection_problem(address: str) -> str:
    """Return why a connection to HOST:PORT fails.

    Returns an empty string if something listens, or if the address has another form.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return ""
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        return str(error)
    return ""
