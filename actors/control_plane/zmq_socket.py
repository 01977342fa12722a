"""The Trio face of a plain ZeroMQ socket: waits without threads, and loses nothing to a cancellation.

`ZMQ_FD` is edge-triggered, and its edge belongs to the socket: any send, receive or look at `ZMQ_EVENTS` of one task may
eat the edge that another task waits for (zmq_getsockopt(3), ZMQ_FD). So one waiter sits on the descriptor, the *pump*; the others
park; every operation reads `ZMQ_EVENTS` again afterwards, and wakes whom it concerns; and whoever stops being the pump hands over.

Not responsible for keys (`curve`), for who is let in (`zap`), nor for what the frames mean. Sockets are not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self, TypeVar

import trio
import zmq
from trio.lowlevel import checkpoint, checkpoint_if_cancelled, notify_closing, wait_readable

Result = TypeVar("Result")

TURNS_BEFORE_YIELD = 32
"""Operations of a socket that is always ready, after which the other tasks have their turn."""
MAX_FRAMES = 16
"""Of a message that has more, one more is passed on, and the rest is not kept: nobody takes it for anything then."""
FIRST_PAUSE_S = 0.0005
LAST_PAUSE_S = 0.02
"""A ROUTER with `ROUTER_MANDATORY` says POLLOUT while any peer has room, and EAGAIN for the one that has none."""


class ZmqSocket:
    """One ZeroMQ socket, for any number of tasks of one Trio run. Every message sent or received is whole.

    A receive that is cancelled has taken nothing; a send that is cancelled has sent nothing. What was closed, here or meanwhile,
    raises `trio.ClosedResourceError`.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.raw = socket
        self._descriptor = socket.FD
        self._parked: dict[trio.Event, int] = {}
        self._pump: tuple[int, trio.CancelScope] | None = None
        self._turns = 0

    def __repr__(self) -> str:
        return f"<ZmqSocket {'closed' if self.raw.closed else 'open'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def receive(self) -> list[bytes]:
        """The frames of the next message."""
        return await self._when(zmq.POLLIN, self._receive_bytes)

    async def receive_frames(self) -> list[zmq.Frame]:
        """As `receive`, but with what the connection says of each frame's sender: `Frame.get("User-Id")`."""
        return await self._when(zmq.POLLIN, self._receive_frames)

    def receive_frames_nowait(self) -> list[zmq.Frame] | None:
        """The frames of a message that is here already, or None. Does not yield: see `TURNS_BEFORE_YIELD` for yourself."""
        self._require_open()
        try:
            frames = self._receive_frames()
        except zmq.Again:
            frames = None
        self._wake()
        return frames

    async def send(self, frames: Sequence[bytes]) -> None:
        """Sends one message, waiting for room. Raises zmq.ZMQError (EHOSTUNREACH) of a mandatory ROUTER for a peer that is gone."""
        await self._when(zmq.POLLOUT, lambda: self._send(frames))

    def send_nowait(self, frames: Sequence[bytes]) -> bool:
        """Sends one message if there is room; whether there was. Raises as `send` does."""
        self._require_open()
        try:
            self._send(frames)
        except zmq.Again:
            return False
        finally:
            self._wake()
        return True

    def close(self, linger_ms: int = 0) -> None:
        """Closes the socket; what is not sent then or within `linger_ms`, for which the end of its context waits, is dropped. Tasks that wait for it get `trio.ClosedResourceError`."""
        if self.raw.closed:
            return
        if self._pump is not None:
            notify_closing(self._descriptor)
        self.raw.close(linger=linger_ms)
        for event in self._parked:
            event.set()
        self._parked.clear()

    # The three operations, each at once or `zmq.Again`.

    def _receive_bytes(self) -> list[bytes]:
        return [frame.bytes for frame in self._receive_frames()]

    def _receive_frames(self) -> list[zmq.Frame]:
        frame = self.raw.recv(zmq.NOBLOCK, copy=False)
        frames = [frame]
        while frame.more and len(frames) <= MAX_FRAMES:  # the rest of a message is here when its beginning is
            frame = self.raw.recv(zmq.NOBLOCK, copy=False)
            frames.append(frame)
        if frame.more:
            while self.raw.getsockopt(zmq.RCVMORE):  # the quickest way past it: nobody else is heard meanwhile
                self.raw.recv(zmq.NOBLOCK)
        return frames

    def _send(self, frames: Sequence[bytes]) -> None:
        self.raw.send_multipart(frames, zmq.NOBLOCK)

    # Waiting.

    async def _when(self, wanted: int, operation: Callable[[], Result]) -> Result:
        self._turns += 1
        if self._turns % TURNS_BEFORE_YIELD:
            await checkpoint_if_cancelled()
        else:
            await checkpoint()
        pause_s = 0.0
        while True:
            self._require_open()
            try:
                result = operation()
            except zmq.Again:
                if pause_s:
                    await trio.sleep(pause_s)
                pause_s = min(max(2 * pause_s, FIRST_PAUSE_S), LAST_PAUSE_S)
                await self._wait(wanted)
            else:
                self._wake()
                return result  # without a checkpoint: from here on a cancellation would lose a message

    async def _wait(self, wanted: int) -> None:
        """Until the socket is ready for what is wanted."""
        try:
            while not self._look() & wanted:
                if self._pump is None:
                    with trio.CancelScope() as scope:
                        self._pump = (wanted, scope)
                        try:
                            await wait_readable(self._descriptor)
                        finally:
                            self._pump = None
                else:
                    event = trio.Event()
                    self._parked[event] = wanted
                    try:
                        await event.wait()
                    finally:
                        self._parked.pop(event, None)
        finally:
            self._hand_over()  # whether we got what we wanted or were cancelled: nobody else may be on the descriptor

    def _look(self) -> int:
        """What the socket is ready for; wakes everybody who waits for that."""
        self._require_open()
        ready = self.raw.getsockopt(zmq.EVENTS)
        assert isinstance(ready, int)
        for event, wanted in list(self._parked.items()):
            if wanted & ready:
                del self._parked[event]
                event.set()
        if self._pump is not None and self._pump[0] & ready:
            self._pump[1].cancel()
        return ready

    def _wake(self) -> None:
        if self._pump is not None or self._parked:
            self._look()

    def _hand_over(self) -> None:
        """With nobody on the descriptor, one of those parked looks for itself, and takes it."""
        if self._pump is None and self._parked:
            event = next(iter(self._parked))
            del self._parked[event]
            event.set()

    def _require_open(self) -> None:
        if self.raw.closed:
            raise trio.ClosedResourceError("the ZeroMQ socket is closed")
