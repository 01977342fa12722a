"""Running one program for a job: no shell, a process group of its own, and its output as it comes.

Responsible for starting, feeding and reading a process, and for ending it with every process of its group. Not responsible
for who may run what, for limits on output (`holloway.protocols.control_plane.agent`), nor for what becomes of the output.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import trio
from trio.lowlevel import FdStream, wait_readable

from holloway.protocols.control_plane.messages import Stream

CHUNK_BYTES = 32 * 1024
"""What is passed on at once, at most; a line that is longer is cut."""
LINE_WAIT_S = 0.2
"""For so long the beginning of a line waits for its end: a prompt is shown, too."""
TERM_GRACE_S = 2.0
"""From SIGTERM to SIGKILL."""
KILL_WAIT_S = 5.0
"""What SIGKILL does not end by then is stuck in the kernel."""
LINGER_S = 1.0
"""When the program has ended and somebody it has left behind holds its output open: silence after which nobody listens any more."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a program runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `account`: None for our own."""

    argv: tuple[str, ...]
    folder: Path
    environ: Mapping[str, str]
    account: Account | None = None
    feed: bytes = b""


@dataclass(frozen=True, slots=True)
class Ended:
    """How it went: the exit code, or why there is none (`error`: it never ran, or a signal ended it)."""

    code: int | None
    error: str
    duration_s: float


@dataclass(slots=True)
class Reins:
    """How others hold a running program: `stop` ends it; while `pause` is on nothing is read of it."""

    _stopping: trio.Event = field(default_factory=trio.Event)
    _open: trio.Event | None = None

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        self.resume()

    def pause(self) -> None:
        """Read nothing more, so that the program waits for us when the pipe is full."""
        if self._open is None and not self._stopping.is_set():
            self._open = trio.Event()

    def resume(self) -> None:
        """Read again."""
        if self._open is not None:
            self._open.set()
            self._open = None

    @property
    def is_stopping(self) -> bool:
        """Whether it is to end."""
        return self._stopping.is_set()

    @property
    def is_paused(self) -> bool:
        """Whether nothing is read."""
        return self._open is not None

    async def wait_stopping(self) -> None:
        """Until it is to end."""
        await self._stopping.wait()

    async def wait_resumed(self) -> None:
        """Until it may be read."""
        while self._open is not None:
            await self._open.wait()


async def run_program(program: Program, reins: Reins, output: Callable[[Stream, bytes], None]) -> Ended:
    """Run it to its end. `output` gets what it writes, cut at ends of lines where it has some.

    When `reins` say stop, and when we are cancelled, its whole process group is ended before this returns. A program that ends by
    itself may leave others behind: they are its business.
    """
    began = trio.current_time()
    with ExitStack() as closing:
        readers, writers = [], []
        for _ in Stream:
            reader, writer = os.pipe()
            readers.append(closing.enter_context(_Descriptor(reader)))
            writers.append(closing.enter_context(_Descriptor(writer)))
        feed_end = closing.enter_context(_Descriptor(-1))
        stdin = subprocess.DEVNULL
        if program.feed:
            stdin, feed_end.number = os.pipe()
            writers.append(closing.enter_context(_Descriptor(stdin)))
        try:
            process = await trio.to_thread.run_sync(_start, program, stdin, writers[0].number, writers[1].number)
        except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
            return Ended(None, _refusal(program, error), trio.current_time() - began)
        for each in writers:
            each.close()  # or we would never see the end of what it writes
        run = _Run(process, reins, output)
        await run.watch([each.take() for each in readers], feed_end.take() if program.feed else None, program.feed)
        return Ended(*run.verdict(), trio.current_time() - began)


class _Descriptor:
    """A file descriptor that is closed once, or given away."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        number = self.take()
        if number >= 0:
            os.close(number)

    def take(self) -> int:
        number, self.number = self.number, -1
        return number


def _start(program: Program, stdin: int, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    account = program.account
    return subprocess.Popen(  # noqa: S603 - to run what it is told is what this is for; there is no shell
        program.argv,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=program.folder,
        env=program.environ,
        start_new_session=True,
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else account.groups,
    )


class _Run:
    """One process that runs. It is reaped when its group has been dealt with, so that the number of the group is its own until then."""

    def __init__(self, process: subprocess.Popen[bytes], reins: Reins, output: Callable[[Stream, bytes], None]) -> None:
        self._process = process
        self._reins = reins
        self._output = output
        self._handle = os.pidfd_open(process.pid)
        self._reading = 2
        self._chunks = 0
        self._all_read = trio.Event()
        self._has_ended = trio.Event()

    def verdict(self) -> tuple[int | None, str]:
        """The exit code, or why there is none."""
        code = self._process.poll()
        if code is None:
            return None, "it does not end, not even killed"
        return (code, "") if code >= 0 else (None, f"ended by {_signal_name(-code)}")

    async def watch(self, readers: list[int], feeder: int | None, feed: bytes) -> None:
        """Until it has ended and its output is read; cancelled, until it is ended."""
        has_ended_by_itself = False
        try:
            async with trio.open_nursery() as nursery:
                for stream, descriptor in zip(Stream, readers, strict=True):
                    nursery.start_soon(self._read, FdStream(descriptor), stream)
                if feeder is not None:
                    nursery.start_soon(self._feed, FdStream(feeder), feed)
                nursery.start_soon(self._end_when_told)
                await self._wait_ended()
                self._has_ended.set()
                if self._reins.is_stopping:
                    self._signal(signal.SIGKILL)  # those of its group that did not heed SIGTERM
                await self._listen_on()
                has_ended_by_itself = not self._reins.is_stopping
                nursery.cancel_scope.cancel()
        finally:
            if not has_ended_by_itself:
                with trio.CancelScope(shield=True):
                    await self._end(self._wait_ended)
            os.close(self._handle)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0)

    async def _read(self, reader: FdStream, stream: Stream) -> None:
        pending = b""
        async with reader:
            while True:
                await self._reins.wait_resumed()
                with trio.move_on_after(LINE_WAIT_S if pending else math.inf) as patience:
                    chunk = await reader.receive_some(CHUNK_BYTES)
                if patience.cancelled_caught:
                    pending = self._pass_on(stream, pending, len(pending))
                elif chunk:
                    self._chunks += 1
                    pending += chunk
                    end = pending.rfind(b"\n") + 1
                    pending = self._pass_on(stream, pending, end if end or len(pending) < CHUNK_BYTES else len(pending))
                else:
                    break
        self._pass_on(stream, pending, len(pending))
        self._reading -= 1
        if not self._reading:
            self._all_read.set()

    def _pass_on(self, stream: Stream, pending: bytes, end: int) -> bytes:
        """Hands the first `end` bytes on, and returns the rest."""
        for at in range(0, end, CHUNK_BYTES):
            self._output(stream, pending[at : min(at + CHUNK_BYTES, end)])
        return pending[end:]

    async def _feed(self, writer: FdStream, feed: bytes) -> None:
        with suppress(trio.BrokenResourceError):  # it does not want to read
            async with writer:
                await writer.send_all(feed)

    async def _listen_on(self) -> None:
        """It has ended: until its output has, too, or somebody it left behind holds on to it and says nothing."""
        while not self._all_read.is_set():
            chunks = self._chunks
            with trio.move_on_after(LINGER_S):
                await self._all_read.wait()
            if chunks == self._chunks and not self._reins.is_paused:
                return

    async def _end_when_told(self) -> None:
        await self._reins.wait_stopping()
        await self._end(self._has_ended.wait)

    async def _wait_ended(self) -> None:
        """For one task at a time."""
        await wait_readable(self._handle)

    async def _end(self, wait_ended: Callable[[], Awaitable[None]]) -> None:
        self._signal(signal.SIGTERM)
        with trio.move_on_after(TERM_GRACE_S):
            await wait_ended()
        self._signal(signal.SIGKILL)
        with trio.move_on_after(KILL_WAIT_S):
            await wait_ended()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # PermissionError: it has become somebody we may not touch
            os.killpg(self._process.pid, number)


def _refusal(program: Program, error: Exception) -> str:
    name = program.argv[0]
    if isinstance(error, FileNotFoundError) and not program.folder.is_dir():
        return f"there is no folder {program.folder} to run it in"
    if isinstance(error, FileNotFoundError):
        return f"there is no program {name}"
    if isinstance(error, PermissionError):
        return f"{name} may not be run here: {error.strerror}"
    if isinstance(error, OSError) and error.errno == errno.E2BIG:
        return f"the arguments of {name} are too long"
    return f"{name} cannot be run: {error.strerror if isinstance(error, OSError) else error}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
