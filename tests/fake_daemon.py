"""A control socket that says what a test tells it to, and the answers of a well-behaved daemon.

Not responsible for the real daemon's behaviour, which its own tests check against the same schemas.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class FakeDaemon:
    """A control socket whose every connection gets the same bytes; `None` keeps the connection open and silent."""

    path: Path
    answer: bytes | None
    pieces: Sequence[bytes] = ()
    requests: list[bytes] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def serve(self, listener: socket.socket) -> None:
        while not self.closing.is_set():
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        with connection.makefile("rb") as lines:
            self.requests.append(lines.readline())
        for piece in self.pieces:
            connection.sendall(piece)
            self.closing.wait(0.02)
        if self.answer is None:
            self.closing.wait(5)
        else:
            connection.sendall(self.answer)


def lines(*objects: object) -> bytes:
    """JSON lines."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in objects)


def peer(name: str = "b", **changes: object) -> dict[str, Any]:
    """One peer as the daemon tells it."""
    return {
        "name": name,
        "addresses": ["10.99.0.2", "fd99::2"],
        "endpoint": "192.0.2.7:1099",
        "state": "ok",
        "suite": "aes-gcm",
        "security": "session",
        "compression": "none",
        "epoch": 41,
        "last_handshake_s": 12.4,
        "rtt_ms": 1.25,
        "rx": {"packets": 7, "bytes": 1_300_000_000},
        "tx": {"packets": 5, "bytes": 999},
    } | changes


def status(*peers: dict[str, Any], **changes: object) -> dict[str, Any]:
    """The result of `status`."""
    return {
        "schema": "holloway.status/1",
        "node": {
            "name": "a",
            "public_key": "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
            "network": "home",
            "interface": "hw0",
            "addresses": ["10.99.0.1/24"],
            "mtu": 1420,
            "listen": ["0.0.0.0:1099", "[::]:1099"],
            "uptime_s": 11520.5,
            "pid": 4711,
            "version": "0.1.0",
            "backend": "session",
            "dtls": None,
            "security": {"require": "session", "offers": ["session"], "compression": "none"},
            "offloads": ["csum", "tso4", "gso", "gro"],
            "refused_runs": {"udp_emsgsize": 2},
            "sparse_first": ["device", "sockets"],
            "queues": [],
            "memory": {"held_bytes": 310, "peak_bytes": 12_400_000, "cap_bytes": 64 << 20},
            "registry": None,
            "certificate": None,
            "settings": None,
            "floating": [],
            "gateway": None,
        },
        "peers": list(peers),
        "drops": {"replay": 0, "no_route": 3},
    } | changes


def detail(name: str = "b", **changes: object) -> dict[str, Any]:
    """One peer of `peers`."""
    return (
        peer(name)
        | {
            "public_key": "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
            "allowed": ["10.99.0.2/32"],
            "keepalive_s": 25,
            "handshakes": 3,
            "compressed": {
                "rx": {"plain_bytes": 3_000_000, "packed_bytes": 1_000_000},
                "tx": {"plain_bytes": 1_000_000, "packed_bytes": 500_000, "skipped_bytes": 12},
            },
            "drops": {"replay": 2},
        }
        | changes
    )


def route(prefix: str = "10.99.0.2/32", **changes: object) -> dict[str, Any]:
    """One route of `routes`."""
    return {"prefix": prefix, "via": "b", "kind": "peer", "kernel": "connected", "why": None} | changes


def routes(*found: dict[str, Any], **changes: object) -> dict[str, Any]:
    """The result of `routes`."""
    return {"schema": "holloway.routes/1", "gateway": None, "routes": list(found)} | changes
