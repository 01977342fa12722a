"""A path through a router that gets narrower while a transfer is under way, with ICMP and without a word."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from daemons import Daemon, two_nodes, wait_until
from device_features import cut_on_the_wire
from namespaces import Namespace, namespaces, needs_namespaces, needs_program, run_in, start_in, wait_until_local
from transfer import transfer
from wire_tap import tapping

pytestmark = [
    needs_namespaces,
    needs_program("nft", package="nftables"),
    needs_program("ping", package="iputils-ping"),
]

WIDE, NARROW = 1500, 1280
FULL = 1400
"""A datagram of so many bytes with its headers is full: there is room for less than a tenth more."""
BULK_BYTES = 10_000_000
TRANSFER_S = 3.2
NARROW_AFTER_S = 1.0
STALL_S = 2.5
"""What must not happen on any machine. Measured on a quiet one: 0.66 to 0.97 s; before a black hole was noticed it was for ever."""
LONG_PING = ["-M", "do", "-s", "1392"]
"""Makes a packet of 1420 bytes, the device's MTU, that no router may fragment."""
LONG_PING_OUTSIDE = 1420 + 32 + 28
"""Bytes of the datagram that carries it over IPv4, if one does."""
TROUBLE = re.compile("Traceback|did not start|restart in|ERROR|CRITICAL")
UNUSED_TEXT = b"not looked for"


@dataclass(frozen=True)
class Path3:
    """Two hosts and the router between them, its devices named after whoever is behind them."""

    left: Namespace
    router: Namespace
    right: Namespace


@contextmanager
def routed() -> Iterator[Path3]:
    """Both families, forwarded, not bridged. Each packet is one frame on every wire."""
    with namespaces(1) as (first,), namespaces(1) as (router,), namespaces(1) as (second,):
        left = replace(first, ipv4="192.0.2.1", ipv6="2001:db8:1::1")
        right = replace(second, ipv4="198.51.100.2", ipv6="2001:db8:2::2")
        forward = "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"
        run_in(router, ["sh", "-ec", forward])
        for host, name in ((left, "left"), (right, "right")):
            run_in(host, f"ip link add eth0 type veth peer name {name} netns {router.name}".split())
            for namespace, device in ((host, "eth0"), (router, name)):
                cut_on_the_wire(namespace, device)
                run_in(namespace, ["ip", "link", "set", device, "up"])
            gateways = re.sub(r"\d+$", "254", host.ipv4), re.sub(r"\d+$", "fe", host.ipv6)
            for namespace, device, addresses in ((host, "eth0", (host.ipv4, host.ipv6)), (router, name, gateways)):
                script = (
                    f"address add {addresses[0]}/24 dev {device}\naddress add {addresses[1]}/64 dev {device} nodad\n"
                )
                run_in(namespace, ["ip", "-batch", "-"], stdin=None, input=script)
            wait_until_local(host.ipv6, inside=["ip", "netns", "exec", host.name])
            wait_until_local(gateways[1], inside=["ip", "netns", "exec", router.name])
            for gateway in gateways:
                run_in(host, ["ip", "route", "add", "default", "via", gateway])
        yield Path3(left, router, right)


def say_too_big(path: Path3) -> None:
    """The router's device towards the right gets narrow: who sends more towards it is told."""
    run_in(path.router, ["ip", "link", "set", "right", "mtu", str(NARROW)])


def say_nothing(path: Path3) -> None:
    """The router drops what is too long, either way."""
    rules = (
        f"table inet narrow {{ chain way {{ type filter hook forward priority 0; meta length > {NARROW} drop; }}; }}\n"
    )
    run_in(path.router, ["nft", "-f", "-"], stdin=None, input=rules)


def widen(path: Path3) -> None:
    """Undo `say_nothing`."""
    run_in(path.router, ["nft", "flush", "ruleset"])


def running(path: Path3, folder: Path, family: int) -> tuple[Daemon, Daemon]:
    """Two nodes with a session between them; `family` is the outer one."""
    a, b = two_nodes(path.left, path.right, folder)
    if family == 6:
        a.peers[0].endpoint, b.peers[0].endpoint = f"[{path.right.ipv6}]:{b.port}", f"[{path.left.ipv6}]:{a.port}"
    a.start(wait=False)
    b.start()
    b.wait_for_session(a.name)
    a.wait_for_session(b.name)
    return a, b


SINK = """
import json, socket, time
with socket.create_server(("::", 5203), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    print("ready", flush=True)
    connection, _ = listener.accept()
    began = last = time.monotonic()
    tenths, longest = [], 0.0
    while True:
        piece = connection.recv(1 << 20)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        if not piece:
            break
        tenths += [0] * (int((now - began) * 10) + 1 - len(tenths))
        tenths[-1] += len(piece)
    print(json.dumps([tenths, longest]))
"""
SOURCE = """
import socket, sys, time
end = time.monotonic() + float(sys.argv[2])
with socket.create_connection((sys.argv[1], 5203)) as connection:
    while time.monotonic() < end:
        connection.sendall(bytes(65536))
"""


def stream(path: Path3, address: str, at: float, happens: Callable[[Path3], None]) -> tuple[list[int], float]:
    """A transfer from left to right in which something happens: bytes received in each tenth of a second, and the longest
    time without any.
    """
    sink = start_in(path.right, [sys.executable, "-S", "-c", SINK], stdout=subprocess.PIPE)
    assert sink.stdout is not None
    assert sink.stdout.readline() == "ready\n"
    source = start_in(path.left, [sys.executable, "-S", "-c", SOURCE, address, str(TRANSFER_S)])
    time.sleep(at)
    happens(path)
    assert source.wait(30) == 0
    tenths, longest = json.loads(sink.communicate(timeout=30)[0])
    return tenths, longest


def ping(path: Path3, address: str, count: int) -> str:
    """What `ping` says of long packets from left to right. An answer and a message that they are too long count as one
    each.
    """
    run_in(path.left, ["ip", "route", "flush", "cache"])
    run = ["ping", "-n", *LONG_PING, "-c", str(count), "-i", "0.1", "-W", "2", address]
    return run_in(path.left, run, check=False).stdout


@pytest.mark.parametrize("family", [4, 6])
def test_bulk_traffic_through_a_router_is_full_datagrams(tmp_path: Path, family: int) -> None:
    with routed() as path:
        nodes = running(path, tmp_path, family)
        with tapping(path.right, "eth0", text=UNUSED_TEXT) as seen:
            transfer(path.left, path.right, "10.99.0.2", BULK_BYTES)
            transfer(path.right, path.left, "fd99::1", BULK_BYTES)
        assert_untroubled(*nodes)
    assert not seen.missed
    assert not seen.fragments
    assert max(seen.lengths) <= WIDE
    assert seen.share_of_bytes(FULL) > 0.9, sorted(seen.lengths.items())


@pytest.mark.parametrize("narrow", [say_too_big, say_nothing])
@pytest.mark.parametrize(("family", "address"), [(4, "10.99.0.2"), (6, "fd99::2")])
def test_a_transfer_survives_a_path_that_gets_narrower(
    tmp_path: Path, family: int, address: str, narrow: Callable[[Path3], None]
) -> None:
    with routed() as path:
        a, b = running(path, tmp_path, family)
        dropped = a.status()["drops"]
        with (
            tapping(path.left, "eth0", text=UNUSED_TEXT) as near,
            tapping(path.right, "eth0", text=UNUSED_TEXT) as far,
        ):
            tenths, longest = stream(path, address, NARROW_AFTER_S, narrow)
            print(f"longest time without a byte {longest:.2f} s, kB in each tenth: {[n // 1000 for n in tenths]}")
            assert longest <= STALL_S, tenths
            assert len(tenths) >= TRANSFER_S * 10 * 0.8
            before = sum(tenths[: int(NARROW_AFTER_S * 10)])
            assert before > 1_000_000, "it was bulk before"
            assert sum(tenths[-10:]) > 500_000, "and is bulk again"
            assert "icmp_seq=1 ttl=" in ping(path, "10.99.0.2", 3)
            wait_until(lambda: "Frag needed" in ping(path, "10.99.0.2", 3), "the end of the search", of=a)
            said = ping(path, "10.99.0.2", 3)
            assert "icmp_seq=1 ttl=" in said, said
            assert "Frag needed" in said, "it is carried, and its sender told to send less"
        assert a.status()["drops"] == dropped, "whatever was lost was lost on the way"
        assert_untroubled(a, b)
    assert not near.fragments + far.fragments
    assert max(near.lengths) > NARROW, "it was wide once"


def test_a_new_session_uses_a_path_that_has_become_wide_again(tmp_path: Path) -> None:
    with routed() as path:
        say_nothing(path)
        a, b = running(path, tmp_path, 4)
        wait_until(lambda: "Frag needed" in ping(path, "10.99.0.2", 3), "the end of the search", of=a)
        widen(path)
        a.stop()
        a.start()
        a.wait_for_session(b.name)
        wait_until(lambda: " 5 received" in ping(path, "10.99.0.2", 5), "the full size", of=a)
        with tapping(path.left, "eth0", text=UNUSED_TEXT) as seen:
            said = ping(path, "10.99.0.2", 5)
        assert " 5 received" in said, said
        assert_untroubled(a, b)
    assert seen.lengths[LONG_PING_OUTSIDE] >= 5, seen.lengths


def assert_untroubled(*nodes: Daemon) -> None:
    for node in nodes:
        assert not TROUBLE.search(node.log), node.log
