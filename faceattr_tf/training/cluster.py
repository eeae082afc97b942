"""The machines of the strategy `multi_worker`, which the variable `TF_CONFIG` names."""

import contextlib
import json
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

from data_pipelines.errors import UserError

TYPES = ("chief", "worker")
EXAMPLE = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
)
PAUSE = 0.5
"""Seconds between two attempts to reach the machines that are missing."""


def read_cluster(text: str) -> tuple[dict[str, tuple[str, int]], str]:
    """The machines of a cluster, and which of them this one is.

    Args:
        text: the value of `TF_CONFIG`, such as `EXAMPLE`.

    Returns:
        Name, such as "worker 1", to host and port; and the name of this machine.

    Raises:
        UserError: the text names no cluster, or not this machine's place in it.
    """
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        quotes = "; JSON has double quotes" if "'" in text else ""
        raise UserError(f"TF_CONFIG is no JSON: {error}{quotes}; expected {EXAMPLE}") from None
    cluster = config.get("cluster") if isinstance(config, dict) else None
    if not isinstance(cluster, dict) or not cluster:
        raise UserError(f"TF_CONFIG names no cluster; expected {EXAMPLE}")
    machines = {}
    for kind, addresses in cluster.items():
        if kind not in TYPES:
            raise UserError(f"TF_CONFIG: cluster holds {kind!r}; expected {' and '.join(TYPES)}")
        if not isinstance(addresses, list) or not addresses:
            raise UserError(f"TF_CONFIG: {kind} is {addresses!r}; expected a list of addresses")
        if kind == "chief" and len(addresses) > 1:
            raise UserError(f"TF_CONFIG: {len(addresses)} chiefs; expected one")
        for index, address in enumerate(addresses):
            found = re.fullmatch(r"\[?([^\[\]/\s]+?)\]?:(\d{1,5})", str(address))
            if not found or not 0 < int(found[2]) < 2**16:
                raise UserError(f"TF_CONFIG: {kind} {index} is {address!r}; expected HOST:PORT")
            place = found[1], int(found[2])
            if place in machines.values():
                raise UserError(f"TF_CONFIG: {address} is the address of two machines")
            machines[f"{kind} {index}"] = place
    task = config.get("task")
    if not isinstance(task, dict) or not {"type", "index"} <= set(task):
        raise UserError(
            'TF_CONFIG does not say which machine this one is; expected "task": '
            '{"type": "worker", "index": 0}'
        )
    kind, index = task["type"], str(task["index"])
    if kind not in cluster:
        raise UserError(f"TF_CONFIG: task type {kind!r} is none of {', '.join(cluster)}")
    if f"{kind} {index}" not in machines:
        raise UserError(
            f"TF_CONFIG: task index {index} of {kind}; expected 0 to {len(cluster[kind]) - 1}"
        )
    return machines, f"{kind} {index}"


def wait_for_machines(machines: dict[str, tuple[str, int]], own: str) -> None:
    """Returns when every other machine answers; names those that do not.

    TensorFlow would wait for them without a word, and no signal would end that. This machine
    answers the others meanwhile, each of which sees the others before TensorFlow begins.

    Args:
        machines: see `read_cluster`.
        own: name of this one.

    Raises:
        UserError: this machine's own port is in use.
    """
    missing = {name: place for name, place in machines.items() if name != own}
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    port = machines[own][1]
    try:
        server = socket.create_server(
            ("", port), family=family, backlog=len(machines), dualstack_ipv6=both
        )
    except OSError as error:
        raise UserError(
            f"TF_CONFIG: port {port} of {own}, this machine: {error.strerror}"
        ) from None
    with server:
        named = None
        while reasons := {name: why for name in missing if (why := _unreachable(*missing[name]))}:
            missing = {name: missing[name] for name in reasons}
            if set(reasons) != named:
                named = set(reasons)
                shown = (
                    f"{name} ({_address(*missing[name])}: {reasons[name]})" for name in reasons
                )
                print(f"waiting for {', '.join(shown)}", file=sys.stderr, flush=True)
            time.sleep(PAUSE)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _unreachable(host: str, port: int) -> str:
    """Why a machine does not answer; empty if it does."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Lets SIGINT and SIGTERM end the process while native code waits and Python cannot act."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)}
    for which in before:
        signal.signal(which, signal.SIG_DFL)
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
