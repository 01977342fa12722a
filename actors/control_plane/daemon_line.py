"""A conversation of a control plane's program with the node's daemon on its machine, over the daemon's control socket.

One question and its answer, or an answer that goes on for as long as both are there. Not responsible for what is said
(`holloway.protocols.control_plane.network_view`), nor for where the socket is.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TypeAlias

import trio

from holloway.protocols.errors import HollowayError, LocalError, PortError

MAX_LINE_BYTES = 4 << 20
"""Thousands of names and keys fit."""
ANSWER_S = 5.0
RETRY_S = 1.0
RETRY_MAX_S = 2.0
_CHUNK_BYTES = 1 << 16

Request: TypeAlias = Mapping[str, object]


async def ask_daemon(path: Path, request: Request) -> object:
    """The result of a request. Raises PortError when nobody answers in time, LocalError for what is refused, or no answer."""
    with trio.move_on_after(ANSWER_S):
        found: list[object] = []
        await _converse(path, request, found.append)
        if found:
            return found[-1]
    raise _silent(path)


async def follow_daemon(
    path: Path, request: Request, take: Callable[[object], None], tell_lost: Callable[[HollowayError | None], None]
) -> None:
    """Have the events of a request, for ever: when the daemon goes, it is asked again. `tell_lost` hears why there is none, and None as soon
    as there is one again; `take` may raise LocalError for one that is none.
    """
    pause_s = RETRY_S

    def heed(event: object) -> None:
        nonlocal pause_s
        take(event)
        pause_s = RETRY_S
        tell_lost(None)

    while True:
        try:
            await _converse(path, request, heed)
            tell_lost(_silent(path))
        except HollowayError as error:
            tell_lost(error)
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, RETRY_MAX_S)


def _silent(path: Path) -> PortError:
    return PortError("the node's daemon does not answer", f"nobody answers at {path}", "start it: holloway up")


async def _converse(path: Path, request: Request, take: Callable[[object], None]) -> None:
    """Ask, and take events and the result, until the other side hangs up."""
    try:
        async with await trio.open_unix_socket(str(path)) as stream:
            await stream.send_all(json.dumps(request).encode() + b"\n")
            async with aclosing(_lines(stream)) as lines:
                async for line in lines:
                    take(_content(line))
    except (OSError, trio.BrokenResourceError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or f"nobody answers at {path}"
        raise PortError("the node's daemon does not answer", f"{path}: {why}", "start it: holloway up") from None


async def _lines(stream: trio.SocketStream) -> AsyncGenerator[bytes, None]:
    data = bytearray()
    while True:
        chunk = await stream.receive_some(_CHUNK_BYTES)
        if not chunk:
            return
        data += chunk
        while (end := data.find(b"\n")) >= 0:
            yield bytes(data[:end])
            del data[: end + 1]
        if len(data) > MAX_LINE_BYTES:
            raise LocalError("the node's daemon says what we do not understand", "a line without an end")


def _content(line: bytes) -> object:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    match answer:
        case {"event": content} | {"result": content}:
            return content
        case {"error": {"what": str(what), "why": str(why), "fix": str(fix)}}:
            raise LocalError(what, why, fix)
        case _:
            raise LocalError("the node's daemon says what we do not understand", "a line that is no answer")
