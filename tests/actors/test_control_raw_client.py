"""A client that has nothing of ours: ZeroMQ, CURVE and JSON, and what docs/control_plane.md says; and one that has no key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import zmq
from control_thread import Plane

from holloway.protocols.control_plane.messages import Role

REQUEST = "0123456789abcdef" * 2
WAIT_MS = 15_000
QUIET_MS = 300


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    plane = Plane(tmp_path_factory.mktemp("plane"))
    plane.start()
    yield plane
    plane.stop()


@contextmanager
def connection(port: int, **curve: str) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        for name, value in curve.items():
            setattr(socket, f"curve_{name}", value.encode())
        socket.connect(f"tcp://127.0.0.1:{port}")
        yield socket


def said(socket: zmq.Socket[bytes]) -> tuple[dict[str, Any], bytes]:
    """Header and body of the next message."""
    assert socket.poll(WAIT_MS), "nothing came"
    magic, header, body = socket.recv_multipart()
    assert magic == b"HW1"
    document: dict[str, Any] = json.loads(header.decode("ascii"))
    return document, body


def test_the_documented_bytes_run_a_command_on_every_node(plane: Plane) -> None:
    pair = plane.world.admit("raw", Role.OPERATOR)
    keys = {"serverkey": plane.world.server.public, "publickey": pair.public, "secretkey": pair.secret}
    header = {
        "kind": "ask",
        "request": REQUEST,
        "steps": [{"command": "echo", "arguments": ["hi"], "options": {}}],
        "target": "all",
        "deadline_s": 10.0,
        "rollout": {"batch": 0, "is_percent": False, "canary": 0, "max_fail": -1},
        "is_dry_run": False,
        "retry": "",
    }
    with connection(plane.world.port, **keys) as socket:
        socket.send_multipart([b"HW1", json.dumps(header).encode(), b""])
        expect, nodes = said(socket)
        assert (expect["kind"], expect["request"], nodes) == ("expect", REQUEST, b"web1\nweb2")
        outputs, results, positions = {}, {}, []
        message: dict[str, Any] = {}
        while message.get("kind") != "finished":
            message, body = said(socket)
            assert message["job"] == expect["job"]
            positions.append(message["position"])
            if message["kind"] == "node-output":
                outputs[message["node"]] = (message["stream"], body)
            elif message["kind"] == "result":
                results[message["node"]] = (message["state"], message["rc"])
        assert outputs == dict.fromkeys(("web1", "web2"), ("stdout", b"hi\n"))
        assert results == dict.fromkeys(("web1", "web2"), ("ok", 0))
        assert message["counts"] == {"ok": 2}
        assert positions == [1, 2, 3, 4, 5]
        socket.send_multipart(
            [b"HW1", json.dumps(header | {"more": 1}).encode(), b""]
        )  # a field too many is no message
        assert not socket.poll(QUIET_MS)


@pytest.mark.parametrize("key", ["none", "unknown"])
def test_who_has_no_key_that_is_known_says_nothing_and_hears_nothing(plane: Plane, key: str) -> None:
    """Neither for commands nor for files: nothing is behind the handshake for him, whatever he calls it."""
    public, secret = (each.decode() for each in zmq.curve_keypair())
    curve = {"serverkey": plane.world.server.public, "publickey": public, "secretkey": secret}
    for port in (plane.world.port, plane.world.file_port):
        with connection(port, **(curve if key == "unknown" else {})) as socket:
            for header in (
                {"kind": "query", "request": REQUEST, "what": "clients", "options": {}},
                {"kind": "want", "transfer": REQUEST, "name": "x"},
            ):
                with suppress(zmq.Again):  # between two attempts to connect there is nobody to send to
                    socket.send_multipart([b"HW1", json.dumps(header).encode(), b""], zmq.NOBLOCK)
            assert not socket.poll(QUIET_MS)
    trail = (plane.world.root / "broker" / "audit.jsonl").read_text().splitlines()
    about = [json.loads(line) for line in trail if public in line]
    assert {each["what"].partition(":")[0] for each in about} == ({"handshake"} if key == "unknown" else set())
