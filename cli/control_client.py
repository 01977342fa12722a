"""One conversation with a daemon over its control socket: a JSON line out, JSON lines back.

Blocking, over the standard library's socket, with a deadline for the whole and bounds on what is read. Whatever the other
side does, slow, hostile or gone, comes out as `CommandFailedError`. Every string of an answer is stripped of control
characters here, so that nothing behind this module can forget to. Not responsible for what the answers mean.
"""

from __future__ import annotations

import json
import math
import shlex
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.plain_text import Json, one_line, strip_json

MAX_ANSWER_BYTES = 16 << 20  # thousands of peers fit in a few MiB
DEFAULT_TIMEOUT_S = 5.0
_CHUNK_BYTES = 1 << 16
_PEER_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon to talk to: its socket, the words that name it on a command line (`-c node.toml`), and the configuration
    file to start it with."""

    path: Path
    words: str = ""
    config: str = "node.toml"

    def command(self, verb: str, *arguments: str) -> str:
        """A command line to paste: `holloway ping -c node.toml b`, quoted for a shell, no argument taken for an option."""
        if any(argument.startswith("-") for argument in arguments):
            arguments = ("--", *arguments)
        return " ".join(part for part in ("holloway", verb, self.words, *map(shlex.quote, arguments)) if part)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds: for the whole conversation, and for the next line."""

    total_s: float = DEFAULT_TIMEOUT_S
    line_s: float = math.inf


def ask(
    daemon: Daemon,
    request: Mapping[str, Json],
    patience: Patience,
    on_event: Callable[[dict[str, Json]], None] | None = None,
) -> dict[str, Json]:
    """Sends `request` and returns the result; each event is handed to `on_event` as it arrives.

    Raises CommandFailedError: unreachable (3), not permitted (77), timed out (124), an answer that is none (1), or the
    daemon's own error with its code.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        lines = _Lines(daemon, connection, patience)
        lines.open(request)
        while True:
            kind, content = _message(lines.next(), daemon)
            if kind == "result":
                return content
            if kind == "error":
                raise _daemon_error(content)
            if on_event is not None:
                on_event(content)


class _Lines:
    """The lines of one connection, within the deadline."""

    def __init__(self, daemon: Daemon, connection: socket.socket, patience: Patience) -> None:
        self._daemon = daemon
        self._connection = connection
        self._patience = patience
        self._deadline = time.monotonic() + patience.total_s
        self._waited_s = patience.total_s
        self._buffer = bytearray()
        self._received = 0

    def open(self, request: Mapping[str, Json]) -> None:
        try:
            self._allow(self._deadline)
            self._connection.connect(str(self._daemon.path))
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        except (TimeoutError, BlockingIOError):  # EAGAIN: nobody has accepted for so long that the backlog is full
            raise self._hung() from None
        except OSError as error:
            raise _unreachable(self._daemon, error) from None

    def next(self) -> bytes:
        """The next whole line, without its end."""
        deadline = min(self._deadline, time.monotonic() + self._patience.line_s)
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            try:
                self._allow(deadline)
                chunk = self._connection.recv(_CHUNK_BYTES)
            except TimeoutError:
                raise self._hung() from None
            except OSError as error:
                raise _unreachable(self._daemon, error) from None
            if not chunk:
                raise _gone(self._daemon, half=bool(self._buffer))
            self._received += len(chunk)
            if self._received > MAX_ANSWER_BYTES:
                raise _not_an_answer(self._daemon, f"more than {MAX_ANSWER_BYTES} bytes")
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _allow(self, deadline: float) -> None:
        """Gives the next socket call the time that is left; a timeout of 0 would mean not to wait at all."""
        now = time.monotonic()
        if now >= deadline:
            raise TimeoutError
        self._connection.settimeout(deadline - now)
        self._waited_s = min(self._patience.total_s, self._patience.line_s)

    def _hung(self) -> CommandFailedError:
        what = f"the daemon did not answer within {self._waited_s:g} s"
        pid = self._pid()
        if pid is not None and _is_stopped(pid):
            return CommandFailedError(what, f"its process {pid} is stopped", f"kill -CONT {pid}", ExitCode.TIMEOUT)
        why = f"it holds {self._daemon.path} but is busy or hung" + (f" (process {pid})" if pid is not None else "")
        fix = f"kill {pid} && {_start(self._daemon)}" if pid is not None else _start(self._daemon)
        return CommandFailedError(what, why, fix, ExitCode.TIMEOUT)

    def _pid(self) -> int | None:
        """The process that listens, as the kernel knows it; None before a connection."""
        try:
            raw = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        except OSError:
            return None
        pid: int = _PEER_CREDENTIALS.unpack(raw)[0]
        return pid or None


def _is_stopped(pid: int) -> bool:
    """Whether the process has been stopped by a signal or a debugger (proc(5): state T or t after the last bracket)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[:1] in (["T"], ["t"])


def _message(line: bytes, daemon: Daemon) -> tuple[str, dict[str, Json]]:
    """The one kind of a line and its content."""
    try:
        answer: Json = strip_json(json.loads(line, parse_constant=_refuse_number, parse_float=_finite))
    except (ValueError, RecursionError):
        raise _not_an_answer(daemon, f"{one_line(line[:60].decode('utf-8', 'replace'))!r} is not JSON") from None
    if isinstance(answer, dict):
        for kind in ("event", "result", "error"):
            content = answer.get(kind)
            if isinstance(content, dict):
                return kind, content
    raise _not_an_answer(daemon, "a line that is neither event, result nor error")


def _refuse_number(word: str) -> float:
    raise ValueError(word)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _daemon_error(content: Mapping[str, Json]) -> CommandFailedError:
    code = content.get("code")
    known = isinstance(code, int) and not isinstance(code, bool) and 1 <= code <= 255
    what, why, fix = (one_line(content.get(key) or "the daemon did not say") for key in ("what", "why", "fix"))
    return CommandFailedError(what, why, fix, code if known and isinstance(code, int) else ExitCode.FAILED)


def _unreachable(daemon: Daemon, error: OSError) -> CommandFailedError:
    if isinstance(error, PermissionError):
        what = f"not permitted to talk to the daemon at {daemon.path}"
        fix = f"sudo holloway status --socket {shlex.quote(str(daemon.path))}"
        return CommandFailedError(what, "the socket belongs to the user who runs the daemon", fix, ExitCode.PERMISSION)
    if isinstance(error, FileNotFoundError):
        why = f"there is no socket {daemon.path}"
    elif isinstance(error, ConnectionRefusedError):
        why = f"nobody listens at {daemon.path}"
    elif isinstance(error, (BrokenPipeError, ConnectionResetError)):
        return _gone(daemon, half=False)
    else:
        why = f"{daemon.path}: {error.strerror or error}"
    return CommandFailedError("the daemon is not running", why, _start(daemon), ExitCode.UNREACHABLE)


def _gone(daemon: Daemon, *, half: bool) -> CommandFailedError:
    where = "in the middle of a line" if half else "before it had answered"
    return CommandFailedError(
        "the daemon went away", f"it closed {daemon.path} {where}", _start(daemon), ExitCode.UNREACHABLE
    )


def _not_an_answer(daemon: Daemon, found: str) -> CommandFailedError:
    return CommandFailedError(
        "what answered is not a holloway daemon of this version",
        f"{daemon.path} sent {found}",
        "holloway version   and compare it with the daemon's; restart the daemon after an update",
    )


def _start(daemon: Daemon) -> str:
    return f"holloway up -c {shlex.quote(daemon.config)}"
