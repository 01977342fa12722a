"""A client's connection to the broker: a DEALER that knows why it is not connected, and comes back after what libzmq gives up on.

Not responsible for what is said over it, nor for telling people: `explained` has the words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self, assert_never

import trio
import zmq

from holloway.actors.control_plane.curve import CurvePair, join_curve, tune
from holloway.actors.control_plane.greeting import mechanism_of
from holloway.actors.control_plane.monitor import GIVEN_UP, Change, Monitor
from holloway.actors.control_plane.zmq_socket import ZmqSocket
from holloway.protocols.errors import BrokerError, PortError

FILE_PORT = 23003
PATIENCE_S = 2.0
"""For a first connection, until the silence of the other side is told: with what a program takes to start, within 3 s."""
JUST_NOW = "just now"
RETRY_S = 2.0
"""After a refusal, until the next attempt."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, and who we are to it. `pair` and `public`: None and empty without CURVE; `keys`: the file they are from."""

    host: str
    port: int
    pair: CurvePair | None
    public: str
    keys: str
    name: bytes = b""
    """What we call ourselves where there is no CURVE, and so nobody to contradict."""
    file_port: int = FILE_PORT
    met: str = ""
    """When, for people, it last let us in with that key; empty when nobody knows of that."""

    @property
    def of_files(self) -> Broker:
        """Where its files are."""
        return replace(self, port=self.file_port)

    @property
    def is_known(self) -> bool:
        """Whether there is one; else it is to be told by `Link.redirect`."""
        return bool(self.host)

    @property
    def endpoint(self) -> str:
        """Where to connect to."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"

    @property
    def place(self) -> str:
        """The same for people."""
        return self.endpoint.removeprefix("tcp://")


class Link:
    """One connection, kept for as long as the block lasts. Somebody must run `watch`, or `connected` first."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], broker: Broker, *, linger_ms: int = 0) -> None:
        """`linger_ms`: for so long what was sent last may leave when the block is left."""
        self.broker = broker
        self._linger_ms = linger_ms
        raw = context.socket(zmq.DEALER)
        tune(raw)
        if broker.pair is not None:
            if broker.is_known:
                join_curve(raw, broker.pair, broker.public)
        elif broker.name:
            raw.routing_id = broker.name
        self._socket = ZmqSocket(raw)
        self._monitor = Monitor(raw)
        self.is_connected = False
        """As far as the monitor has told."""
        self._last: Change | None = None

    def __enter__(self) -> Self:
        if not self.broker.is_known:
            return self
        try:
            self._socket.raw.connect(self.broker.endpoint)
        except zmq.ZMQError as error:
            self.__exit__()
            raise PortError(f"{self.broker.place} is no place to connect to", str(error), "--host HOST") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._monitor.close()
        self._socket.close(self._linger_ms)

    def redirect(self, broker: Broker) -> None:
        """The broker is there from now on, with that key: the connection to the one before is over. One that is not known: to nobody."""
        raw, before = self._socket.raw, self.broker
        if before.is_known:
            raw.disconnect(before.endpoint)
        self.broker, self.is_connected, self._last = broker, False, None
        if broker.is_known:
            if broker.pair is not None:
                join_curve(raw, broker.pair, broker.public)  # for connections that are made from now on
            raw.connect(broker.endpoint)

    async def receive(self) -> list[bytes]:
        """The frames of the next message."""
        return await self._socket.receive()

    def receive_nowait(self) -> list[bytes] | None:
        """The frames of a message that is here already, or None."""
        frames = self._socket.receive_frames_nowait()
        return None if frames is None else [each.bytes for each in frames]

    async def send(self, frames: Sequence[bytes]) -> None:
        """Send a message, or queue it while there is no connection; waits when the queue is full."""
        await self._socket.send(frames)

    def send_nowait(self, frames: Sequence[bytes]) -> bool:
        """Send a message if there is a connection with room for it; whether it was."""
        return self.is_connected and self._socket.send_nowait(frames)

    async def connected(self) -> None:
        """Wait for the first connection. Raises BrokerError that says why there is none."""
        with trio.move_on_after(PATIENCE_S):
            while True:
                change = await self._monitor.next()
                if change is Change.CONNECTED:
                    self._let_in()
                    return
                if change is not Change.DISCONNECTED:
                    raise explained(await self._certain(change), self.broker)
        raise explained(Change.SILENT, self.broker)

    async def watch(self, tell: Callable[[Change], None]) -> None:
        """Keep it, for ever. `tell` hears of each change, and of the same one only once in a row."""
        while True:
            change = await self._monitor.next()
            self.is_connected = False
            if change is Change.CONNECTED:
                self._let_in()
            if change is not self._last:
                self._last = change
                tell(await self._certain(change))
            if change in GIVEN_UP:
                refused = self.broker
                await trio.sleep(RETRY_S)
                if self.broker is not refused:
                    continue  # there is another one meanwhile
                self._socket.raw.disconnect(self.broker.endpoint)
                self._socket.raw.connect(self.broker.endpoint)

    def _let_in(self) -> None:
        self.is_connected = True
        self.broker = replace(self.broker, met=JUST_NOW)

    async def _certain(self, change: Change) -> Change:
        """Who hangs up on us may have another key, or none; and who does so on somebody without keys wants some."""
        if change is not Change.WRONG_SERVER_KEY:
            return change
        if self.broker.pair is None or await mechanism_of(self.broker.host, self.broker.port) == "NULL":
            return Change.NOT_CURVE
        return change


def explained(change: Change, broker: Broker) -> BrokerError:
    """Why there is no connection, for people."""
    place = broker.place
    match change:
        case Change.UNKNOWN_KEY if broker.pair is not None:
            return BrokerError(
                f"the broker at {place} does not let us in",
                f"it does not know the key in {broker.keys}, or that was revoked",
                f"where an admin is: holloway client create --role ROLE --name NAME --public-key '{broker.pair.public}'",
                kind="denied",
            )
        case Change.WRONG_SERVER_KEY if broker.met:
            return BrokerError(
                f"the broker at {place} has been replaced",
                f"with the key that {broker.keys} names it last let us in {broker.met}; what answers there now has another one",
                "ask who runs it; if it was made anew, write its new server_public_key into that file, and have your key let in there",
                kind="foreign",
            )
        case Change.WRONG_SERVER_KEY:
            return BrokerError(
                f"what answers at {place} is not the broker that {broker.keys} names",
                "it has another key: it was made anew, or somebody stands in its place",
                "compare server_public_key in that file with the key that the broker prints when it starts",
                kind="foreign",
            )
        case Change.NOT_CURVE:
            said = "does not encrypt" if broker.pair is not None else "encrypts, and we do not"
            return BrokerError(
                f"what answers at {place} speaks another language",
                f"it {said}: one of the two runs with --security null",
                "run both with --security curve",
                kind="foreign",
            )
        case Change.NOT_ZEROMQ | Change.UNKNOWN_KEY:
            return BrokerError(
                f"what answers at {place} is no broker",
                "it does not speak ZeroMQ",
                "name the broker's host and port: --host HOST[:PORT]",
                kind="foreign",
            )
        case Change.ABSENT:
            return BrokerError(
                f"no broker answers at {place}",
                "nobody listens there, or there is no such host",
                "start it: holloway broker --root DIR; or name another: --host HOST[:PORT]",
            )
        case Change.SILENT | Change.DISCONNECTED | Change.CONNECTED:
            return BrokerError(
                f"the broker at {place} does not answer",
                f"there was no handshake within {PATIENCE_S:g} s",
                "see whether it hangs, or a firewall swallows what we send",
            )
        case _:
            assert_never(change)
