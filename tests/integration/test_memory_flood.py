"""A live pair of `holloway up` processes, one of which is made to keep more than it may: the cap of its configuration holds,
in what it says and in what the kernel says of it, and the other side is served all the while."""

from __future__ import annotations

import random
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from daemons import Daemon, KeyPair, Peer, two_nodes, wait_until
from hostile import flood, sent, watching
from namespaces import namespaces, needs_namespaces, needs_program, run_in, start_in
from wire import PORT, Sender

from holloway.protocols.record_wire import SPREAD_BITS

pytestmark = [needs_namespaces, needs_program("ping", package="iputils-ping")]

CAP_BYTES = 8 << 20
PIECES = 200_000
ABSENT = 40
PACKETS_EACH = 120
RSS_MARGIN_KIB = 32 << 10
FIRST_ABSENT = 100  # the last part of their inner addresses
SEND_TO_ABSENT = f"""
import socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
    for number in range({FIRST_ABSENT}, {FIRST_ABSENT + ABSENT}):
        for _ in range({PACKETS_EACH}):
            host.sendto(bytes(1392), (f"10.99.0.{{number}}", 7))
        time.sleep(0.02)  # the device queues 500 packets
"""


def test_floods_of_pieces_and_packets_stay_within_the_memory_of_the_configuration(tmp_path: Path) -> None:
    with namespaces(3) as (left, right, third):
        a, b = two_nodes(left, right, tmp_path)
        b.extra = f"[limits]\nmemory = {CAP_BYTES}\n"
        b.peers += [
            Peer(
                name=f"absent-{number}",
                public=KeyPair.fresh().public,
                allowed=(f"10.99.0.{number}/32",),
                endpoint=f"{third.ipv4}:{PORT}",
            )
            for number in range(FIRST_ABSENT, FIRST_ABSENT + ABSENT)
        ]
        b.start()
        a.start()
        a.wait_for_session("b")
        with watching(right, "eth0") as seen:
            run_in(left, ["ping", "-q", "-c", "20", "-i", "0.01", "-W", "3", "10.99.0.2"])
        index, top = latest_record([data for source, data in seen.datagrams() if source == left.ipv4])

        assert b.process is not None
        before = resident_kib(b)
        run_in(right, [sys.executable, "-c", SEND_TO_ABSENT])
        pinging = start_in(left, ["ping", "-q", "-c", "300", "-i", "0.02", "10.99.0.2"], stdout=subprocess.PIPE)
        flooding = flood(third, pieces(index, top), tmp_path, pid=b.process.pid, target=right, impostor=left.ipv4)
        held = [0]
        while flooding.poll() is None:
            memory = b.status()["node"]["memory"]
            held.append(memory["held_bytes"])
            assert memory["held_bytes"] <= memory["peak_bytes"] <= memory["cap_bytes"] == CAP_BYTES
        grown = resident_kib(b) - before
        assert sent(flooding)["sent"] == PIECES
        answered = re.search(r"(\d+) received", pinging.communicate(timeout=30)[0])

        status = b.status()
        told = f"RSS grew by {grown} KiB, held at the most {max(held)}; {status['node']['memory']} {status['drops']}"
        print(told)  # for whoever asks with -s
        assert grown < CAP_BYTES // 1024 + RSS_MARGIN_KIB, told
        assert max(held) > CAP_BYTES // 2, told  # more than either half
        drops = status["drops"]
        assert drops["memory_full"] > 0, told
        lost_or_left = drops["memory_full"] + drops.get("piece_pushed_out", 0) + drops.get("piece_expired", 0)
        assert lost_or_left > 0.9 * PIECES, told
        assert answered is not None
        assert int(answered[1]) >= 285, told
        wait_until(lambda: b.status()["node"]["memory"]["held_bytes"] < max(held), "pieces to expire", of=b)
        assert b.stop() == 0
        assert a.process is not None
        assert a.process.poll() is None


def latest_record(datagrams: list[bytes]) -> tuple[int, int]:
    """The receiver index and counter of the newest record."""
    index, _, _, word = struct.unpack_from("<IHHQ", [data for data in datagrams if data[1:4] != bytes(3)][-1])
    return index, word >> SPREAD_BITS


def pieces(index: int, top: int) -> Iterator[tuple[Sender, bytes]]:
    """Pieces of records that could be the peer's, none of which will be whole: five each of six."""
    body = random.Random(1).randbytes(1400)
    for serial in range(PIECES // 5):
        word = top + 2000 + serial << SPREAD_BITS | 5
        size = 100 + serial % 1300
        for number in range(5):
            yield Sender.PEER, struct.pack("<IHHQ", index, number, 1, word) + body[:size]


def resident_kib(daemon: Daemon) -> int:
    assert daemon.process is not None
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{daemon.process.pid}/status").read_text())
    assert found is not None
    return int(found[1])
