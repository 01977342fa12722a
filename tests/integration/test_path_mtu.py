"""A path through a router that gets narrower while a transfer is under way, with ICMP and without a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import Daemon, two_nodes, wait_until
from namespaces import needs_namespaces, needs_program, run_in
from routed_path import NARROW, TRANSFER_S, Path3, routed, say_nothing, say_too_big, stream, widen
from transfer import transfer
from wire_tap import tapping

pytestmark = [
    needs_namespaces,
    needs_program("nft", package="nftables"),
    needs_program("ping", package="iputils-ping"),
]

WIDE = 1500
FULL = 1350  # the datagrams of a record have one length: with N of them, up to an Nth below the greatest
"""A datagram of so many bytes with its headers is full: there is room for less than a tenth more."""
BULK_BYTES = 10_000_000
NARROW_AFTER_S = 1.0
STALL_S = 2.5
"""What must not happen on any machine. Measured on a quiet one: 0.66 to 0.97 s; before a black hole was noticed it was for ever."""
LONG_PING = ["-M", "do", "-s", "1392"]
"""Makes a packet of 1420 bytes, the device's MTU, that no router may fragment."""
LONG_PING_OUTSIDE = 1420 + 32 + 28
"""Bytes of the datagram that carries it over IPv4, if one does."""
TROUBLE = re.compile("Traceback|did not start|restart in|ERROR|CRITICAL")
UNUSED_TEXT = b"not looked for"


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
            # Nothing long need have gone the other way, so that the first answers may be what finds it narrow, too.
            wait_until(lambda: "icmp_seq=1 ttl=" in ping(path, "10.99.0.2", 3), "the way back to be found narrow", of=a)
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
