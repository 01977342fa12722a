"""Bulk traffic through `holloway up` processes: whole over a bad wire, secret and unfragmented on it, and fair to a ping.

What is promised from outside, whatever records and super-packets are made of inside.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import transfer as transfers
from bad_wire import LEFT_PORT, RIGHT_PORT, bad_wire
from daemons import Daemon, two_nodes
from device_features import cut_on_the_wire
from namespaces import Namespace, namespaces, needs_namespaces, needs_program, run_in, start_in
from transfer import transfer
from wire_tap import tapping

pytestmark = [needs_namespaces, needs_program("ping", package="iputils-ping")]

FILE_BYTES = 80_000_000
"""Over the bad wire: enough for some 60000 datagrams, of which 600 are lost."""
GIGABYTE = 1_000_000_000
WATCHED_BYTES = 60_000_000
MIXED_BYTES = 20_000_000
BULK_BYTES = 100_000_000_000  # more than goes through while a test lasts
MTU = 1500
FULL = 1400
"""A datagram of so many bytes with its headers is full: there is room for less than a tenth more."""
PINGS = 50
LOST_AT_MOST = 2
"""Of those pings, to the device's own queue: the kernel drops what does not fit while a bulk stream keeps it full."""
TROUBLE = re.compile("Traceback|did not start|restart in|ERROR|CRITICAL")
IFF_VNET_HDR = 0x4000  # linux/if_tun.h
TEXT = b"nobody but the two nodes can read this line "


class WithoutOffloads(Daemon):
    """A node that neither cuts nor joins packets for its kernel."""

    def write(self) -> Path:
        path = super().write()
        path.write_text(path.read_text().replace("[interface]\n", "[interface]\noffloads = false\n"))
        return path


@pytest.mark.parametrize(("family", "lost"), [(4, 0.01), (6, 0.01), (4, 0.0005)])
def test_a_file_arrives_whole_over_a_wire_that_loses_doubles_spoils_and_reorders(
    tmp_path: Path, family: int, lost: float
) -> None:
    """`family` is the outer one; both inner ones go both ways over each. At the smaller loss a sender may well put many
    datagrams at stake together, and the wire reorders all the same.
    """
    with namespaces(3) as (left, right, hub):
        a, b = two_nodes(left, right, tmp_path)
        outer = [host.ipv6 if family == 6 else host.ipv4 for host in (left, right)]
        hub_host = f"[{hub.ipv6}]" if family == 6 else hub.ipv4
        a.peers[0].endpoint, b.peers[0].endpoint = f"{hub_host}:{LEFT_PORT}", f"{hub_host}:{RIGHT_PORT}"
        with bad_wire(hub, left=outer[0], right=outer[1], port=a.port, seed=7, lost=lost) as wire:
            start(a, b)
            for source, target, address in (
                (left, right, "10.99.0.2"),
                (right, left, "fd99::1"),
                (right, left, "10.99.0.1"),
                (left, right, "fd99::2"),
            ):
                transfer(source, target, address, FILE_BYTES // 4)
            assert a.peer("b")["endpoint"] == f"{hub_host}:{LEFT_PORT}"
            assert_untroubled(a, b)
            dropped = sum(sum(node.status()["drops"].values()) for node in (a, b))
    datagrams = wire.passed + wire.lost
    assert datagrams > FILE_BYTES / MTU
    assert wire.lost > datagrams * lost / 2
    assert wire.overtaken > datagrams * 0.005
    assert wire.doubled > datagrams * 0.001
    assert wire.spoilt > datagrams * 0.0005
    assert dropped > 0.8 * (wire.doubled + wire.spoilt), "each of these was refused, and counted"


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("lost", [0.01, 0.0005])
def test_a_gigabyte_arrives_whole_over_that_wire(tmp_path: Path, lost: float) -> None:
    with namespaces(3) as (left, right, hub):
        a, b = two_nodes(left, right, tmp_path)
        a.peers[0].endpoint, b.peers[0].endpoint = f"{hub.ipv4}:{LEFT_PORT}", f"{hub.ipv4}:{RIGHT_PORT}"
        with bad_wire(hub, left=left.ipv4, right=right.ipv4, port=a.port, seed=7, lost=lost) as wire:
            start(a, b)
            transfer(left, right, "10.99.0.2", GIGABYTE, timeout_s=1200)
            assert_untroubled(a, b)
    assert wire.passed > GIGABYTE / MTU
    assert wire.lost > wire.passed * lost / 2
    assert wire.overtaken > wire.passed * 0.005


@pytest.mark.parametrize("family", [4, 6])
def test_bulk_traffic_is_full_datagrams_without_a_fragment_or_a_legible_byte(tmp_path: Path, family: int) -> None:
    with namespaces(2) as (left, right):
        for host in (left, right):
            cut_on_the_wire(host, "eth0")
        a, b = two_nodes(left, right, tmp_path)
        if family == 6:
            a.peers[0].endpoint, b.peers[0].endpoint = f"[{right.ipv6}]:{b.port}", f"[{left.ipv6}]:{a.port}"
        start(a, b)
        with tapping(right, "eth0", text=TEXT) as outer, tapping(right, "hw0", text=TEXT) as inner:
            for source, target, address in ((left, right, "10.99.0.2"), (right, left, "fd99::1")):
                send_text(source, target, address, WATCHED_BYTES // 2)
        assert_untroubled(a, b)
    assert not outer.missed + inner.missed
    assert inner.legible > WATCHED_BYTES / 65_536, "the text can be read where it is not encrypted"
    assert sum(length * count for length, count in outer.lengths.items()) > WATCHED_BYTES
    assert not outer.legible
    assert not outer.fragments
    assert max(outer.lengths) <= MTU
    assert outer.share_of_bytes(FULL) > 0.9, sorted(outer.lengths.items())


@pytest.mark.parametrize("without", ["a", "b"])
def test_a_node_without_offloads_and_one_with_them_understand_each_other(tmp_path: Path, without: str) -> None:
    with namespaces(2) as (left, right):
        nodes = [
            WithoutOffloads(**vars(node)) if node.name == without else node for node in two_nodes(left, right, tmp_path)
        ]
        start(*nodes)
        assert [has_offloads(node) for node in nodes] == [node.name != without for node in nodes]
        for source, target, address in (
            (left, right, "10.99.0.2"),
            (right, left, "fd99::1"),
            (right, left, "10.99.0.1"),
            (left, right, "fd99::2"),
        ):
            transfer(source, target, address, MIXED_BYTES)
        assert_untroubled(*nodes)


@pytest.mark.parametrize("bulk", ["with the pings", "against the pings"])
def test_a_bulk_stream_makes_no_ping_wait(tmp_path: Path, bulk: str) -> None:
    with namespaces(2) as (left, right):
        a, b = two_nodes(left, right, tmp_path)
        start(a, b)
        ends = (left, right, "10.99.0.2") if bulk == "with the pings" else (right, left, "10.99.0.1")
        sender = a if ends[0] is left else b
        with streaming(*ends):
            before = sender.status()["peers"][0]["tx"]["bytes"]
            for target in ("10.99.0.2", "fd99::2"):
                refused = refused_by_device(left) + refused_by_device(right)
                ping = ["ping", "-n", "-c", str(PINGS), "-i", "0.02", "-W", "2", target]
                said = run_in(left, ping, check=False).stdout
                times = [float(found) for found in re.findall(r"time=([\d.]+) ms", said)]
                refused = refused_by_device(left) + refused_by_device(right) - refused
                assert PINGS - len(times) <= min(refused, LOST_AT_MOST), said
                assert max(times) < 1000
            assert sender.status()["peers"][0]["tx"]["bytes"] - before > 10_000_000, "it was a bulk stream"
        assert_untroubled(a, b)


def start(a: Daemon, b: Daemon) -> None:
    a.start(wait=False)
    b.start()
    b.wait_for_session(a.name)
    a.wait_for_session(b.name)


def assert_untroubled(*nodes: Daemon) -> None:
    for node in nodes:
        assert not TROUBLE.search(node.log), node.log


def has_offloads(node: Daemon) -> bool:
    flags = run_in(node.namespace, ["cat", "/sys/class/net/hw0/tun_flags"]).stdout
    return bool(int(flags, 16) & IFF_VNET_HDR)


def refused_by_device(host: Namespace) -> int:
    """How many packets the kernel could not put into the queue that the node reads."""
    return int(run_in(host, ["cat", "/sys/class/net/hw0/statistics/tx_dropped"]).stdout)


@contextmanager
def streaming(source: Namespace, target: Namespace, address: str) -> Iterator[None]:
    """A TCP stream that runs while the context lasts, and is seen to run at its end."""
    program, port = transfers.__file__, str(transfers.PORT)
    server = start_in(target, [sys.executable, program, "serve", port], stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    sender = start_in(source, [sys.executable, program, "send", address, port, str(BULK_BYTES)])
    yield
    assert sender.poll() is server.poll() is None
    sender.kill()
    server.kill()


# The text again and again, so that it stands whole in every packet that has twice its length.
TEXT_SINK = """
import socket, sys
with socket.create_server(("::", 5202), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    print("ready", flush=True)
    connection, _ = listener.accept()
    count = 0
    while piece := connection.recv(1 << 20):
        count += len(piece)
    print(count)
"""
TEXT_SOURCE = """
import socket, sys
text, left = bytes.fromhex(sys.argv[2]) * 10000, int(sys.argv[3])
with socket.create_connection((sys.argv[1], 5202)) as connection:
    while left:
        left -= connection.send(memoryview(text)[:left])
"""


def send_text(source: Namespace, target: Namespace, address: str, count: int) -> None:
    sink = start_in(target, [sys.executable, "-S", "-c", TEXT_SINK], stdout=subprocess.PIPE)
    assert sink.stdout is not None
    assert sink.stdout.readline() == "ready\n"
    run_in(source, [sys.executable, "-S", "-c", TEXT_SOURCE, address, TEXT.hex(), str(count)], timeout=60)
    assert int(sink.communicate(timeout=20)[0]) == count
