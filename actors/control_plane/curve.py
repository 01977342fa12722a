"""CURVE keys, and how a socket gets them; the settings that every socket of the control plane has.

Not responsible for where keys are kept (`key_files`), nor for who is let in (`zap`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import zmq

from holloway.protocols.errors import PortError

ZAP_DOMAIN = b"holloway"
MAX_FRAME_BYTES = 320 * 1024
"""A header of 64 KiB or a body of 256 KiB, with room to spare. A longer frame costs its sender the connection."""
HIGH_WATER = 1000
"""Messages that wait in a socket for each peer, in each direction."""
RECEIVED_HIGH_WATER = 16
"""Messages from one peer that wait for us at a ROUTER; later ones wait in the kernel, and at the peer."""
HANDSHAKE_MS = 5_000
HEARTBEAT_MS = 5_000
HEARTBEAT_TIMEOUT_MS = 15_000
RECONNECT_MS = 200
RECONNECT_MAX_MS = 5_000


@dataclass(frozen=True, slots=True)
class CurvePair:
    """A key pair in Z85."""

    public: str
    secret: str = field(repr=False)


def new_pair() -> CurvePair:
    """A fresh key pair, by libzmq. Raises PortError where that was built without CURVE."""
    require_curve()
    public, secret = zmq.curve_keypair()
    return CurvePair(public.decode("ascii"), secret.decode("ascii"))


def public_of(secret: str) -> str:
    """The public half of a private key in Z85."""
    require_curve()
    return zmq.curve_public(secret.encode("ascii")).decode("ascii")


def require_curve() -> None:
    """Raises PortError where libzmq was built without CURVE."""
    if not zmq.has("curve"):
        raise PortError(
            "ZeroMQ on this machine has no CURVE",
            "its libzmq was built without libsodium",
            "install the wheel: pip install --force-reinstall --only-binary :all: pyzmq",
        )


def tune(socket: zmq.Socket[bytes]) -> None:
    """Bounds on memory and on time; peers that are gone are noticed."""
    socket.linger = 0
    socket.ipv6 = True
    socket.maxmsgsize = MAX_FRAME_BYTES
    socket.sndhwm = socket.rcvhwm = HIGH_WATER
    socket.handshake_ivl = HANDSHAKE_MS
    socket.heartbeat_ivl = HEARTBEAT_MS
    socket.heartbeat_timeout = socket.heartbeat_ttl = HEARTBEAT_TIMEOUT_MS
    socket.reconnect_ivl = RECONNECT_MS
    socket.reconnect_ivl_max = RECONNECT_MAX_MS


def serve_curve(socket: zmq.Socket[bytes], pair: CurvePair) -> None:
    """Let only CURVE peers in, by the ZAP handler of the socket's context, which must be there: see `zap`."""
    socket.curve_server = True
    socket.curve_secretkey = pair.secret.encode("ascii")
    socket.zap_domain = ZAP_DOMAIN


def join_curve(socket: zmq.Socket[bytes], pair: CurvePair, server_public: str) -> None:
    """Be that client, to that server and to no other."""
    socket.curve_serverkey = server_public.encode("ascii")
    socket.curve_publickey = pair.public.encode("ascii")
    socket.curve_secretkey = pair.secret.encode("ascii")
