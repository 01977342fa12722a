"""Who is let in: the ZAP handler (ZeroMQ RFC 27) of one ZeroMQ context, and the only way to a server socket in it.

Without a handler libzmq lets every CURVE client in. So the handler is bound before there is any server socket, a gate makes
those, and closes them before it goes. Besides, whoever came in without being asked has no User-Id, and `sender_key` then says so:
the check of every single message, which also makes a revoked key stop working on a connection that is open.

Not responsible for what a key may do, nor for the list of keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from logging import Logger
from typing import Final, Self, TypeAlias

import zmq

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.control_plane.curve import HIGH_WATER, RECEIVED_HIGH_WATER, CurvePair, serve_curve, tune
from holloway.actors.control_plane.zmq_socket import ZmqSocket
from holloway.protocols.errors import LocalError, PortError
from holloway.protocols.z85 import KEY_BYTES, KEY_CHARS, encode_z85

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
VERSION = b"1.0"
_REQUEST_FRAMES = 7
_ADDRESS, _MECHANISM, _CREDENTIALS = 3, 5, 6

Judge: TypeAlias = Callable[[str, str], Awaitable[bool]]
"""Whether a key, in Z85, is let in that comes from an address."""


class Gate:
    """The door of one context. `judge` is asked for every handshake that comes so far.

    Raises PortError where the context has a handler already.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        judge: Judge,
        log: Logger,
        tell_denied: Callable[[str, str, str], None],
    ) -> None:
        """`tell_denied` hears of each handshake that is refused: where it came from, the reason, and that in words, with the key."""
        self._tell_denied = tell_denied
        self.denied: Final[Counter[str]] = Counter()
        """Handshakes that were refused, by reason."""
        self._context = context
        self._judge = judge
        self._log = BoundedLog(log)
        self._servers: list[ZmqSocket] = []
        raw = context.socket(zmq.REP)
        try:
            raw.bind(ZAP_ENDPOINT)
        except zmq.ZMQError as error:
            raw.close(linger=0)
            raise PortError("the ZAP handler cannot be bound", str(error), "a context has one gate") from error
        self._handler = ZmqSocket(raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Closes every server socket, and the handler last."""
        for server in self._servers:
            server.close()
        self._handler.close()

    def open_router(
        self, endpoint: str, pair: CurvePair | None, *, high_water: int = HIGH_WATER
    ) -> tuple[ZmqSocket, str]:
        """A ROUTER behind this gate, and the endpoint it is bound to. It refuses to send to a peer that is gone. `high_water`:
        messages that wait for one peer. Without a pair everybody is let in, the gate is not asked, and connections name themselves.

        Raises PortError when it cannot be bound, and LocalError when the gate is closed.
        """
        if self._handler.raw.closed:
            raise LocalError("the gate is closed", "without its handler everybody would be let in")
        raw = self._context.socket(zmq.ROUTER)
        tune(raw)
        raw.sndhwm, raw.rcvhwm = high_water, min(high_water, RECEIVED_HIGH_WATER)
        raw.ipv6 = "[" in endpoint  # else libzmq names IPv4 peers as IPv6
        if pair is None:
            raw.router_handover = True  # who comes back has the name that he had
        else:
            serve_curve(raw, pair)
        return self._bound(raw, endpoint)

    def _bound(self, raw: zmq.Socket[bytes], endpoint: str) -> tuple[ZmqSocket, str]:
        raw.router_mandatory = True
        try:
            raw.bind(endpoint)
        except zmq.ZMQError as error:
            raw.close(linger=0)
            raise PortError(
                f"cannot listen on {endpoint}",
                str(error),
                "name another port or address, or end the program that has it",
            ) from error
        server = ZmqSocket(raw)
        self._servers.append(server)
        bound = raw.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(bound, bytes)
        return server, bound.rstrip(b"\0").decode()

    async def serve(self) -> None:
        """Answer handshakes, for ever. The gate must not stay open longer than this runs."""
        while True:
            frames = await self._handler.receive()
            request = frames[1] if len(frames) > 1 else b""
            key = self._credentials(frames)
            is_in = key is not None and await self._judge(key, frames[_ADDRESS].decode("ascii", "replace"))
            if key is not None and not is_in:
                self._deny("unknown_key", frames[_ADDRESS], f"key {key} is not known, or revoked")
            answer = (b"200", b"OK", key.encode("ascii")) if key is not None and is_in else (b"400", b"denied", b"")
            await self._handler.send([VERSION, request, *answer, b""])

    def _credentials(self, frames: list[bytes]) -> str | None:
        """The key that a request brings, in Z85; None for what is no CURVE request, which is counted."""
        if len(frames) < _REQUEST_FRAMES or frames[0] != VERSION:
            self._deny("bad_request", b"", "a request of another version of ZAP")
        elif frames[_MECHANISM] != b"CURVE" or len(frames[_CREDENTIALS]) != KEY_BYTES:
            self._deny("mechanism", frames[_ADDRESS], "it does not speak CURVE")
        else:
            return encode_z85(frames[_CREDENTIALS])
        return None

    def _deny(self, reason: str, address: bytes, why: str) -> None:
        self.denied[reason] += 1
        said = address.decode("ascii", "backslashreplace") or "somebody"
        self._log.warning("%s is not let in: %s", said, why)
        self._tell_denied(said, reason, why)


def sender_words(frame: zmq.Frame) -> str:
    """The key and the address of whoever sent the frame, for people."""
    try:
        address = str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        address = "an unknown address"
    return f"{sender_key(frame) or 'no key'} at {address}"


def sender_key(frame: zmq.Frame) -> str | None:
    """The key of whoever sent the frame, in Z85, as the gate has vouched for it; None when no gate has."""
    try:
        key = frame.get("User-Id")
    except zmq.ZMQError:  # the connection has no such property: nobody asked the gate
        return None
    return key if isinstance(key, str) and len(key) == KEY_CHARS else None
