"""Live nodes with several queues: the kernel spreads what comes, and what floods one queue leaves the others alone."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from daemons import HOLLOWAY, Daemon, KeyPair, two_nodes, wait_until
from namespaces import Namespace, namespaces, needs_namespaces, needs_program, run_in, start_in
from transfer import transfer

pytestmark = [needs_namespaces, needs_program("ping", package="iputils-ping")]

QUEUES = 4
SOURCES = range(20_001, 20_065)
FLOWS = range(30_001, 30_033)
PINGS = 20
SEND = """
import socket, sys
family, host, port, count, length, *sources = sys.argv[1:]
for source in sources:
    with socket.socket(int(family), socket.SOCK_DGRAM) as sender:
        sender.bind(("", int(source)))
        for _ in range(int(count)):
            sender.sendto(bytes(int(length)), (host, int(port)))
"""


def send(
    namespace: Namespace,
    host: str,
    port: int,
    *sources: int,
    count: int = 1,
    length: int = 100,
    family: int = socket.AF_INET,
) -> None:
    """From each of these source ports so many datagrams of zeros."""
    words = (family, host, port, count, length, *sources)
    run_in(namespace, [sys.executable, "-c", SEND, *(str(int(word)) if word != host else host for word in words)])


def queues(daemon: Daemon) -> Any:
    return daemon.status()["node"]["queues"]


def came(daemon: Daemon, kind: str, what: str) -> list[int]:
    return [queue[kind][what] for queue in queues(daemon)]


def wait_for(daemon: Daemon, kind: str, what: str, number: int) -> None:
    wait_until(lambda: sum(came(daemon, kind, what)) >= number, f"{number} {what}", of=daemon)


def moved(daemon: Daemon, before: list[int]) -> list[int]:
    """The numbers of the sockets by which something came since."""
    wait_until(lambda: came(daemon, "udp", "datagrams") != before, "a datagram", of=daemon)
    return [
        number
        for number, (then, now) in enumerate(zip(before, came(daemon, "udp", "datagrams"), strict=True))
        if now > then
    ]


@contextmanager
def running(folder: Path, interface: str) -> Iterator[tuple[Daemon, Daemon]]:
    """a, with this in its [interface], and b; with a session."""
    with namespaces(2) as (left, right):
        a, b = two_nodes(left, right, folder)
        a.interface = interface
        a.start()
        b.start()
        a.wait_for_session("b")
        b.wait_for_session("a")
        yield a, b


def test_what_comes_is_spread_and_what_floods_one_queue_leaves_the_others_alone(tmp_path: Path) -> None:
    with running(tmp_path, f"queues = {QUEUES}") as (a, b):
        second = Daemon(
            name="second",
            namespace=a.namespace,
            folder=tmp_path,
            addresses=("10.98.0.1/24",),
            interface=a.interface,
            keys=KeyPair.fresh(),
        )
        second.start(wait=False)
        for address in ("10.99.0.1", "fd99::1"):
            run_in(b.namespace, ["ping", "-q", "-c", "3", "-i", "0.05", "-W", "5", address])
        transfer(a.namespace, b.namespace, "fd99::2", 2_000_000)
        for family, host in ((socket.AF_INET, a.namespace.ipv4), (socket.AF_INET6, a.namespace.ipv6)):
            before = came(a, "udp", "datagrams")
            send(b.namespace, host, a.port, *SOURCES, family=family)
            wait_for(a, "udp", "datagrams", sum(before) + len(SOURCES))
            assert len(moved(a, before)) == QUEUES, "64 sources miss one of four sockets once in 2 * 10^7 times"
        before = came(a, "tun", "packets")
        send(a.namespace, "10.99.0.2", 9, *FLOWS)
        wait_for(a, "tun", "packets", sum(before) + len(FLOWS))
        assert sum(now > then for then, now in zip(before, came(a, "tun", "packets"), strict=True)) > 1

        answered, told = stalled(a, b, elsewhere(a, b))
        assert answered == PINGS, told

        assert second.process is not None
        assert second.process.wait(20) != 0
        assert f"EADDRINUSE: another process has UDP port {a.port}" in second.log
        text = run_in(a.namespace, [*HOLLOWAY, "status", "--socket", str(a.socket)]).stdout
        shown = rf"^{QUEUES} queues, datagrams from the network / packets from here: .*\d+ / \d+ \d+ lost"
        assert re.search(shown, text, re.MULTILINE), text
        assert a.stop() == 0


@pytest.mark.soak
def test_what_one_source_fills_while_nobody_reads_is_all_there_is_of_one_queue(tmp_path: Path) -> None:
    """What several are for, seen without them."""
    with running(tmp_path, "queues = 1") as (a, b):
        answered, told = stalled(a, b, SOURCES[0])
        assert answered < PINGS / 2, told  # one that is short may fit into what is left between long ones


def stalled(a: Daemon, b: Daemon, source: int) -> tuple[int, str]:
    """A stands still, as a busy host makes it, while one source port sends more than a socket holds, and b pings: how many pings
    are answered when a goes on, and more for whoever asks.
    """
    assert a.process is not None
    a.process.send_signal(signal.SIGSTOP)
    send(b.namespace, a.namespace.ipv4, a.port, source, count=12_000, length=1400)
    before = b.peer("a")["tx"]["packets"]
    pings = start_in(
        b.namespace, ["ping", "-q", "-c", str(PINGS), "-i", "0.01", "-W", "2", "10.99.0.1"], stdout=subprocess.PIPE
    )
    wait_until(lambda: b.peer("a")["tx"]["packets"] >= before + PINGS, "all pings to leave", of=b)
    a.process.send_signal(signal.SIGCONT)
    found = re.search(r"(\d+) received", pings.communicate(timeout=30)[0])
    assert found is not None
    told = f"{found[0]} of {PINGS}; {a.status()['drops']}; {queues(a)}"
    print(told)  # for whoever asks with -s
    assert a.status()["drops"]["receive_buffer_full"] > 0, told
    return int(found[1]), told


def elsewhere(a: Daemon, b: Daemon) -> int:
    """A source port of b's host from which datagrams come to a by another socket than those of b do."""
    before = came(a, "udp", "datagrams")
    run_in(b.namespace, ["ping", "-q", "-c", "1", "-W", "5", "10.99.0.1"])
    (of_b,) = moved(a, before)
    for source in SOURCES:
        before = came(a, "udp", "datagrams")
        send(b.namespace, a.namespace.ipv4, a.port, source)
        if of_b not in moved(a, before):
            return source
    raise AssertionError("all of 64 sources share a socket with b")


FLOOD = """
import socket, struct, sys, time
host, port, source, seconds = sys.argv[1], *map(int, sys.argv[2:])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.bind(("", source))
    sender.connect((host, port))
    segments = [(socket.IPPROTO_UDP, 103, struct.pack("=H", 32))]  # UDP_SEGMENT
    data, end, sent = [bytes(32 * 64)], time.monotonic() + seconds, 0
    print("floods", flush=True)
    while time.monotonic() < end:
        try:
            sender.sendmsg(data, segments)
            sent += 64
        except (ConnectionError, BlockingIOError):
            pass
print(sent)
"""


@pytest.mark.soak
@pytest.mark.parametrize("number", [1, QUEUES])
def test_a_flood_from_one_source_costs_the_others_no_ping(tmp_path: Path, number: int) -> None:
    """As the one with a node that stands still, but the node reads all the while, and the flood is faster."""
    with running(tmp_path, f"queues = {number}") as (a, b):
        source = SOURCES[0] if number == 1 else elsewhere(a, b)
        words = [a.namespace.ipv4, str(a.port), str(source), "12"]
        flooding = start_in(b.namespace, [sys.executable, "-c", FLOOD, *words], stdout=subprocess.PIPE)
        assert flooding.stdout is not None
        assert flooding.stdout.readline() == "floods\n"
        pings = run_in(
            b.namespace, ["ping", "-q", "-c", "200", "-i", "0.05", "-W", "2", "10.99.0.1"], check=False, timeout=60
        ).stdout
        sent = int(flooding.communicate(timeout=30)[0])
        found = re.search(r"(\d+) received", pings)
        assert found is not None
        times = re.search(r"= ([\d./]+) ms", pings)
        told = f"{number} queues: {found[0]} of 200, min/avg/max/mdev {times[1] if times else '-'} ms, {sent} sent"
        print(told, a.status()["drops"])
        assert a.status()["drops"].get("receive_buffer_full", 0) > 0, told
        if number > 1:
            assert int(found[1]) >= 198, told
