"""What becomes of a client's connection, in words: libzmq's socket monitor read for the cause of a failed handshake.

    cause                        what the client's monitor says
    its key is not let in        HANDSHAKE_FAILED_AUTH, and libzmq does not try again
    it has another server key    HANDSHAKE_FAILED_NO_DETAIL (EPIPE, ECONNRESET) at each attempt: the server hangs up on what it cannot open
    the server speaks no CURVE   HANDSHAKE_FAILED_PROTOCOL (mechanism mismatch), and libzmq does not try again
    nobody listens               CONNECT_RETRIED without CONNECTED

Not responsible for trying again (`link`), nor for what to tell people.
"""

from __future__ import annotations

import errno
from enum import Enum

import zmq
from zmq.utils.monitor import parse_monitor_message

from holloway.actors.control_plane.zmq_socket import ZmqSocket

HANG_UPS_BEFORE_BLAME = 2
"""One that is just stopping hangs up, too; and one without CURVE may, which `link` makes certain of."""
_MECHANISM_MISMATCH = 0x11000002
_CRYPTOGRAPHIC = 0x11000001
_EVENTS = (
    zmq.Event.CONNECTED
    | zmq.Event.CONNECT_RETRIED
    | zmq.Event.DISCONNECTED
    | zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
)


class Change(Enum):
    """What happened to the connection."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    UNKNOWN_KEY = "the broker does not know this key"
    WRONG_SERVER_KEY = "the broker has another key"
    NOT_CURVE = "the other side does not speak CURVE"
    NOT_ZEROMQ = "the other side does not speak ZeroMQ"
    ABSENT = "nobody listens there"
    SILENT = "the other side does not answer"


GIVEN_UP = frozenset({Change.UNKNOWN_KEY, Change.NOT_CURVE, Change.NOT_ZEROMQ})
"""After these libzmq does not try again by itself."""


class Monitor:
    """Watches one client socket. Each change is told once, until another one happens."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._watched = socket
        self._socket = ZmqSocket(socket.get_monitor_socket(_EVENTS))
        self._hang_ups = 0
        self._is_reached = False  # in this attempt
        self._is_open = False  # the connection, as far as we know
        self._is_through = False

    async def next(self) -> Change:
        """The next change."""
        while True:
            event = parse_monitor_message(await self._socket.receive())
            change = self._read(zmq.Event(event["event"]), event["value"])
            if change is not None:
                return change

    def close(self) -> None:
        """Watch no longer. Call it before the socket is closed."""
        self._watched.disable_monitor()
        self._socket.close()

    def _read(self, event: zmq.Event, value: int) -> Change | None:
        match event:
            case zmq.Event.CONNECTED:
                self._is_reached = self._is_open = True
            case zmq.Event.HANDSHAKE_SUCCEEDED:
                self._hang_ups, self._is_through = 0, True
                return Change.CONNECTED
            case zmq.Event.DISCONNECTED:
                was_open, was_through = self._is_open, self._is_through
                self._is_open = self._is_through = False
                if was_through:
                    return Change.DISCONNECTED
                return Change.NOT_ZEROMQ if was_open else None
            case zmq.Event.CONNECT_RETRIED:
                was_reached, self._is_reached = self._is_reached, False
                if not was_reached:
                    self._hang_ups = 0
                    return Change.ABSENT
            case _:
                self._is_open = False
                return self._failed(event, value)
        return None

    def _failed(self, event: zmq.Event, value: int) -> Change | None:
        """What a failed handshake means."""
        if event == zmq.Event.HANDSHAKE_FAILED_AUTH:
            return Change.UNKNOWN_KEY
        if event == zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
            if value == _CRYPTOGRAPHIC:
                return Change.WRONG_SERVER_KEY
            return Change.NOT_CURVE if value == _MECHANISM_MISMATCH else Change.NOT_ZEROMQ
        if value not in (errno.EPIPE, errno.ECONNRESET):
            return Change.SILENT
        self._hang_ups += 1
        return Change.WRONG_SERVER_KEY if self._hang_ups >= HANG_UPS_BEFORE_BLAME else None
