"""The actor behind the control socket: answers `status`, `peers`, `routes` and `ping` for the command line.

One JSON object a line comes in; zero or more `{"event": ...}` lines and one `{"result": ...}` or `{"error": ...}` line go
out. The socket belongs to the user who runs the node (mode 0600), and what comes through it is still hostile input:
bounded in size, number and time, answered with an error, never raised. A client that hangs up, or does not read its
answer, gives up its place. Not responsible for what the answers mean (`node`).
"""

from __future__ import annotations

import errno
import json
import os
import select
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
WRITE_TIMEOUT_S = 10.0
"""How long a client may take to read one line of its answer."""
HANG_UP_POLL_S = 0.5
ACCEPT_PAUSE_S = 0.1
MAX_PATH_BYTES = 107
"""`struct sockaddr_un` has 108 bytes for a path and the NUL behind it (unix(7))."""
PASSING_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.ENOBUFS, errno.ENOMEM, errno.EINTR})

Answer: TypeAlias = dict[str, object]
Service: TypeAlias = Callable[[Answer], AsyncGenerator[Answer, None]]
"""Turns one request into the lines of its answer. Raises `HollowayError` for a request that it refuses."""


async def control(ctx: Context, path: Path, service: Service, *, task_status: trio.TaskStatus[Path]) -> None:
    """Actor: the control socket at `path`. Raises `PortError` when it cannot be made."""
    listener = _listen(path)
    ours: tuple[int, int] | None = None
    try:
        ours = _identity(path)
        places = trio.Semaphore(MAX_CONNECTIONS)
        async with trio.open_nursery() as nursery:
            task_status.started(path)
            while True:
                await places.acquire()
                client = await _accept(listener)
                nursery.start_soon(_serve, client, service, places)
    finally:
        listener.close()
        with suppress(OSError):
            if _identity(path) == ours and not _is_answered(path):  # else it is a successor's
                os.unlink(path)


async def _accept(listener: trio.socket.SocketType) -> trio.SocketStream:
    while True:
        try:
            client, _ = await listener.accept()
        except OSError as error:
            if error.errno not in PASSING_ERRNOS:
                raise
            await trio.sleep(ACCEPT_PAUSE_S)  # out of descriptors: those in use will come back
        else:
            return trio.SocketStream(client)


def _listen(path: Path) -> trio.socket.SocketType:
    """A listening socket that only our user can open. A dead predecessor's socket is removed."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise PortError(
            f"the control socket {path} cannot be made",
            f"its path has {len(os.fsencode(path))} bytes, and a socket's has at most {MAX_PATH_BYTES}",
            "set [control] socket to a shorter path",
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The kernel takes the mode of the socket for that of the file, so there is no moment at which others may open
        # it, and no umask to change, which would be the whole program's.
        os.fchmod(listener.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_dead(path)
        listener.bind(str(path))
        listener.listen(MAX_CONNECTIONS)
        return trio.socket.from_stdlib_socket(listener)
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


def _identity(path: Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _remove_dead(path: Path) -> None:
    """Raises `PortError` when somebody answers at `path`, or when it is not a socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise PortError(f"the control socket {path} cannot be made", "a file is in its place", f"move {path} away")
    if _is_answered(path):
        raise PortError(
            f"the control socket {path} is in use",
            "another node answers there",
            "stop that node, or give this one a [control] socket and an [interface] name of its own",
        )
    with suppress(FileNotFoundError):
        os.unlink(path)


def _is_answered(path: Path) -> bool:
    """Whether somebody listens at `path`. Asks without waiting: other actors share this thread."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:  # there is one, and a queue before it
            return True
    return True


async def _serve(stream: trio.SocketStream, service: Service, places: trio.Semaphore) -> None:
    """One client, one request."""
    try:
        async with stream:
            with suppress(trio.BrokenResourceError):
                await _answer(stream, service)
    finally:
        places.release()


async def _answer(stream: trio.SocketStream, service: Service) -> None:
    try:
        line = await _read_line(stream)
        if line is None:
            return
        request = _request(line)
    except HollowayError as error:
        await _write(stream, _error(error, code=2))
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_on_hang_up, stream.socket, nursery.cancel_scope)
        await _serve_request(stream, service, request)
        nursery.cancel_scope.cancel()


async def _serve_request(stream: trio.SocketStream, service: Service, request: Answer) -> None:
    try:
        async with aclosing(service(request)) as lines:
            async for answer in lines:
                if not await _write(stream, answer):
                    return
    except HollowayError as error:
        await _write(stream, _error(error, code=1))


async def _cancel_on_hang_up(client: trio.socket.SocketType, scope: trio.CancelScope) -> None:
    """A client that only says no more is still listening, and one that is gone is not: `poll` tells the two apart."""
    await trio.lowlevel.wait_readable(client)
    poll = select.poll()
    poll.register(client.fileno(), 0)
    while not poll.poll(0):  # noqa: ASYNC110 - a socket at its end of input has no other event to wait for
        await trio.sleep(HANG_UP_POLL_S)
    scope.cancel()


async def _read_line(stream: trio.SocketStream) -> bytes | None:
    """The first line; None when the client said nothing whole. Raises `HollowayError` for one that is too long."""
    data = bytearray()
    with trio.move_on_after(REQUEST_TIMEOUT_S):
        while b"\n" not in data:
            chunk = await stream.receive_some(4096)
            if not chunk:
                return None
            data += chunk
            if len(data) > MAX_REQUEST_BYTES:
                raise HollowayError("the request is too long", f"a line has at most {MAX_REQUEST_BYTES} bytes")
        return bytes(data[: data.index(b"\n")])
    return None


def _request(line: bytes) -> Answer:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise HollowayError("the request is not a JSON object")
    return request


def _error(error: HollowayError, *, code: int) -> Answer:
    return {"error": {"what": error.what, "why": error.why, "fix": error.fix, "code": code}}


async def _write(stream: trio.SocketStream, answer: Answer) -> bool:
    """Send one line. False when the client does not read it, or is gone."""
    data = json.dumps(answer, separators=(",", ":")).encode() + b"\n"
    with trio.move_on_after(WRITE_TIMEOUT_S), suppress(trio.BrokenResourceError):
        await stream.send_all(data)
        return True
    return False
