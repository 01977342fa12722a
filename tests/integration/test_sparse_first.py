"""`sparse_first` in `holloway up` processes: what is marked on the wire, and a ping beside a bulk flow."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import Daemon, two_nodes
from namespaces import Namespace, namespaces, needs_namespaces, needs_program, run_in, start_in
from transfer import transfer

pytestmark = [needs_namespaces, needs_program("ping", package="iputils-ping")]

PINGS = 40
BULK_BYTES = 40_000_000
MARK = "180"  # DSCP 45
LONGEST = 600  # a short packet in its record, and the outer headers
SNIFFER = """
import collections, json, select, socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
wire.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)  # SO_RCVBUFFORCE
wire.bind(("eth0", 3))  # both ways
print("ready", flush=True)
found = collections.defaultdict(collections.Counter)
while sys.stdin not in select.select([wire, sys.stdin], [], [])[0]:
    packet, source = wire.recvfrom(65536)
    if source[1] == 0x0800:
        found[packet[1]][len(packet)] += 1
print(json.dumps(found))
"""


@contextmanager
def watching(host: Namespace) -> Iterator[dict[str, dict[str, int]]]:
    """The lengths of all IPv4 packets by their traffic class, known at the end."""
    argv = [sys.executable, "-S", "-c", SNIFFER]
    watcher = start_in(host, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == "ready\n"
    found: dict[str, dict[str, int]] = {}
    yield found
    found.update(json.loads(watcher.communicate("stop\n", timeout=30)[0]))


def start(a: Daemon, b: Daemon, *, a_has_it: bool) -> None:
    for node, has_it in ((a, a_has_it), (b, True)):
        node.interface = f"sparse_first = {json.dumps(has_it)}"
    a.start(wait=False)
    b.start()
    b.wait_for_session(a.name)
    a.wait_for_session(b.name)


@pytest.mark.parametrize("a_has_it", [True, False])
def test_only_short_packets_of_sparse_flows_are_marked_and_all_arrive(tmp_path: Path, *, a_has_it: bool) -> None:
    with namespaces(2) as (left, right):
        a, b = two_nodes(left, right, tmp_path)
        start(a, b, a_has_it=a_has_it)
        assert a.status()["node"]["sparse_first"] == ["device", "sockets"] * a_has_it
        assert b.status()["node"]["sparse_first"] == ["device", "sockets"]
        with watching(right) as seen:
            pinging = start_in(
                left, ["ping", "-q", "-c", str(PINGS), "-i", "0.02", "10.99.0.2"], stdout=subprocess.PIPE
            )
            transfer(left, right, "10.99.0.2", BULK_BYTES)
            transfer(right, left, "10.99.0.1", BULK_BYTES)
            said = pinging.communicate(timeout=30)[0]
        assert f"{PINGS} received" in said, said
        assert "Traceback" not in a.log + b.log
        marked = seen.get(MARK, {})
        assert sum(marked.values()) >= PINGS * (1 + a_has_it)
        assert max(map(int, marked)) < LONGEST
        assert sum(int(length) * count for length, count in seen["0"].items()) > BULK_BYTES
        second = run_in(right, ["ss", "-uHan", f"sport = :{b.port}"]).stdout
        assert second.count(f"0.0.0.0:{b.port}") == 2
        assert a.stop() == b.stop() == 0
