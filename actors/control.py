"""The actor behind the control socket: answers `status`, `peers` and `ping` for the command line.

One JSON object a line comes in; zero or more `{"event": ...}` lines and one `{"result": ...}` or `{"error": ...}` line go
out. The socket belongs to the user who runs the node (mode 0600), and what comes through it is still hostile input:
bounded, answered with an error, never raised. Not responsible for what the answers mean (`node`).
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import trio

from holloway.protocols.errors import HollowayError, PortError

if TYPE_CHECKING:
    from holloway.supervisor import Context

MAX_REQUEST_BYTES = 64 * 1024
MAX_CONNECTIONS = 32
REQUEST_TIMEOUT_S = 10.0
"""How long a client may take to say what it wants."""

Answer: TypeAlias = dict[str, object]
Service: TypeAlias = Callable[[Answer], AsyncGenerator[Answer, None]]
"""Turns one request into the lines of its answer. Raises `HollowayError` for a request that it refuses."""


async def control(ctx: Context, path: Path, service: Service, *, task_status: trio.TaskStatus[Path]) -> None:
    """Actor: the control socket at `path`. Raises `PortError` when it cannot be made."""
    listener = _listen(path)
    inode = os.stat(path).st_ino
    places = trio.Semaphore(MAX_CONNECTIONS)
    try:
        async with trio.open_nursery() as nursery:
            task_status.started(path)
            while True:
                await places.acquire()
                try:
                    client, _ = await listener.accept()
                except OSError as error:
                    places.release()
                    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.ENOBUFS, errno.ENOMEM):
                        raise
                    await trio.sleep(0.1)  # out of descriptors: those in use will come back
                    continue
                nursery.start_soon(_serve, trio.SocketStream(client), service, places)
    finally:
        listener.close()
        with suppress(OSError):
            if os.stat(path).st_ino == inode:  # not the socket of a successor
                os.unlink(path)


def _listen(path: Path) -> trio.socket.SocketType:
    """A listening socket that only our user can open. A dead predecessor's socket is removed."""
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_dead(path)
        # A path is no name to look up, so the plain socket underneath may bind without waiting.
        socket.socket.bind(listener._sock, str(path))  # type: ignore[attr-defined]
        listener.listen(MAX_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise PortError(
            f"the control socket {path} cannot be made",
            os.strerror(error.errno) if error.errno else str(error),
            "set [control] socket to a path in a folder that this user may write",
        ) from error
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(previous)
    return listener


def _remove_dead(path: Path) -> None:
    """Raises `PortError` when somebody answers at `path`, or when it is not a socket."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise PortError(f"the control socket {path} cannot be made", "a file is in its place", f"move {path} away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
    raise PortError(
        f"the control socket {path} is in use",
        "another node answers there",
        "stop that node, or give this one a [control] socket and an [interface] name of its own",
    )


async def _serve(stream: trio.SocketStream, service: Service, places: trio.Semaphore) -> None:
    """One client, one request."""
    try:
        async with stream:
            with suppress(trio.BrokenResourceError):
                line = await _read_line(stream)
                if line is not None:
                    await _answer(stream, service, line)
    finally:
        places.release()


async def _read_line(stream: trio.SocketStream) -> bytes | None:
    data = bytearray()
    with trio.move_on_after(REQUEST_TIMEOUT_S):
        while b"\n" not in data:
            chunk = await stream.receive_some(4096)
            if not chunk or len(data) + len(chunk) > MAX_REQUEST_BYTES:
                return None
            data += chunk
        return bytes(data[: data.index(b"\n")])
    return None


async def _answer(stream: trio.SocketStream, service: Service, line: bytes) -> None:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        await _write(stream, _error(HollowayError("the request is not a JSON object"), code=2))
        return
    try:
        async with aclosing(service(request)) as lines:
            async for answer in lines:
                await _write(stream, answer)
    except HollowayError as error:
        await _write(stream, _error(error, code=1))


def _error(error: HollowayError, *, code: int) -> Answer:
    return {"error": {"what": error.what, "why": error.why, "fix": error.fix, "code": code}}


async def _write(stream: trio.SocketStream, answer: Answer) -> None:
    await stream.send_all(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
