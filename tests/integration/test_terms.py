"""What two `holloway up` processes agree on, seen from the wire between them: plain text, and compression."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from daemons import HOLLOWAY, Daemon, two_nodes
from device_features import cut_on_the_wire
from namespaces import Namespace, namespaces, needs_namespaces, run_in, start_in
from transfer import transfer
from wire_tap import Tapped, tapping

pytestmark = [needs_namespaces]

TEXT = b"the two nodes and whoever is on the way can read this line "
TEXT_BYTES = 4_000_000
NOISE_BYTES = 4_000_000
MTU = 1500
PORT = 5301
RECEIVER = """
import hashlib, socket
with socket.create_server(("::", 5301), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    print("ready", flush=True)
    with listener.accept()[0] as connection:
        digest = hashlib.sha256()
        while chunk := connection.recv(1 << 20):
            digest.update(chunk)
    print(digest.hexdigest(), flush=True)
"""
SENDER = """
import hashlib, socket, sys
text = (sys.argv[2].encode() * (int(sys.argv[3]) // len(sys.argv[2]) + 1))[:int(sys.argv[3])]
with socket.create_connection((sys.argv[1], 5301), timeout=30) as connection:
    connection.sendall(text)
print(hashlib.sha256(text).hexdigest())
"""


def send_text(source: Namespace, target: Namespace, address: str) -> None:
    receiver = start_in(target, [sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    sent = run_in(source, [sys.executable, "-c", SENDER, address, TEXT.decode(), str(TEXT_BYTES)], timeout=60).stdout
    assert receiver.communicate(timeout=20)[0] == sent


def bytes_of(seen: Tapped) -> int:
    return sum(length * count for length, count in seen.lengths.items())


def start(a: Daemon, b: Daemon) -> None:
    for node in (a, b):
        cut_on_the_wire(node.namespace, "eth0")
        node.start()
    a.wait_for_session("b")
    b.wait_for_session("a")


def said(node: Daemon, verb: str) -> str:
    return run_in(node.namespace, [*HOLLOWAY, verb, "-c", str(node.config)], timeout=60).stdout


@pytest.mark.parametrize("both", [True, False], ids=["both", "one alone"])
def test_plain_text_is_on_the_wire_only_where_both_ask_for_it(tmp_path: Path, both: bool) -> None:
    """Table C, rows 29, 31 and 39."""
    with namespaces(2) as (left, right):
        a, b = two_nodes(left, right, tmp_path)
        a.extra = '[security]\nrequire = "none"'
        b.extra = a.extra if both else ""
        start(a, b)
        with tapping(right, "eth0", text=TEXT) as outer:
            send_text(left, right, "10.99.0.2")
            send_text(right, left, "fd99::1")
        assert [node.peer(name)["security"] for node, name in ((a, "b"), (b, "a"))] == [
            "none" if both else "session"
        ] * 2
        for told in (said(a, "status"), said(b, "peers")):
            assert ("NOT ENCRYPTED" in told) is both
        assert ("peer b: NOT ENCRYPTED" in a.log) is both
        assert not a.status()["drops"]
    assert not outer.missed
    assert bytes_of(outer) > 2 * TEXT_BYTES
    assert bool(outer.legible) is both
    assert outer.legible > TEXT_BYTES / MTU or not both
    assert not outer.fragments
    assert max(outer.lengths) <= MTU


def test_text_shrinks_noise_does_not_and_no_datagram_is_longer(tmp_path: Path) -> None:
    """Table C, row 30."""
    pytest.importorskip("lz4.block", reason="pip install 'holloway[compression]'")
    with namespaces(2) as (left, right):
        a, b = two_nodes(left, right, tmp_path, session='compression = "lz4"')
        start(a, b)
        with tapping(right, "eth0", text=TEXT) as text:
            send_text(left, right, "10.99.0.2")
        sent = a.ask("peers")["peers"][0]["compressed"]["tx"]
        received = b.ask("peers")["peers"][0]["compressed"]["rx"]
        with tapping(right, "eth0", text=TEXT) as noise:
            transfer(left, right, "10.99.0.2", NOISE_BYTES)
        after = a.ask("peers")["peers"][0]["compressed"]["tx"]
        assert "aes-gcm, lz4" in said(a, "status")
        assert not a.status()["drops"]
    assert sent["plain_bytes"] > 0.9 * TEXT_BYTES
    assert sent["packed_bytes"] < sent["plain_bytes"] / 5
    assert {key: received[key] for key in ("plain_bytes", "packed_bytes")} == {
        key: sent[key] for key in ("plain_bytes", "packed_bytes")
    }
    assert bytes_of(text) < TEXT_BYTES / 2
    assert after["skipped_bytes"] - sent["skipped_bytes"] > 0.9 * NOISE_BYTES
    assert NOISE_BYTES < bytes_of(noise) < 1.2 * NOISE_BYTES
    for seen in (text, noise):
        assert not seen.legible + seen.fragments + seen.missed
        assert max(seen.lengths) <= MTU
