"""Talking to the broker as an operator: one question and its answer, or a job from the first word to the last.

Not responsible for what is shown (`job_views`), nor for options.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio
import zmq

from holloway.actors.control_plane.link import Link, explained
from holloway.actors.control_plane.monitor import Change
from holloway.cli.control_options import note_met
from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.job_views import JobView
from holloway.cli.printing import say
from holloway.protocols.control_plane.messages import (
    Admin,
    Answer,
    Ask,
    Attach,
    CancelJob,
    Denied,
    Expect,
    Finished,
    NodeOutput,
    Query,
    Refusal,
    Result,
    Seen,
)
from holloway.protocols.control_plane.wire import decode, encode

if TYPE_CHECKING:
    from holloway.actors.control_plane.link import Broker

ANSWER_S = 15.0
"""How long the broker may take for an answer that it knows."""
BEYOND_S = 120.0
"""How long after the deadline of a job the broker, which ends every job by then, may be away."""
SECOND_S = 2.0
"""After a first Ctrl-C, for a second one."""
SEEN_EVERY = 16
TOKEN_BYTES = 16


def new_token() -> str:
    """A name for a request."""
    return os.urandom(TOKEN_BYTES).hex()  # noqa: TID251 - a verb is where randomness comes in


def query(
    broker: Broker, what: str, options: Mapping[str, str | int | float | bool] | None = None
) -> list[dict[str, Any]]:
    """The rows of an answer. Raises BrokerError, CommandFailedError."""
    return trio.run(_rows, broker, Query(new_token(), what, options or {}))


def administer(
    broker: Broker,
    command: str,
    arguments: Sequence[str] = (),
    options: Mapping[str, str | int | float | bool] | None = None,
    body: bytes = b"",
) -> list[dict[str, Any]]:
    """The rows of what a command on the broker answers. Raises BrokerError, CommandFailedError."""
    return trio.run(_rows, broker, Admin(new_token(), command, tuple(arguments), options or {}, body))


def answer(broker: Broker, request: Query | Admin) -> Answer:
    """The first answer to a request, whole. Raises as `administer` does."""
    return trio.run(_answers, broker, request)[0]


def cancel(broker: Broker, job: str) -> str:
    """Cancel a job; what it is then. Raises BrokerError, CommandFailedError."""
    answers = trio.run(_answers, broker, CancelJob(new_token(), job))
    return str(answers[0].document.get("is", ""))


async def _rows(broker: Broker, request: Query | Admin) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for each in await _answers(broker, request):
        found = each.document.get("rows")
        if isinstance(found, list):
            rows += [row for row in found if isinstance(row, dict)]
    return rows


async def _answers(broker: Broker, request: Query | Admin | CancelJob) -> list[Answer]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    answers: list[Answer] = []
    try:
        with Link(context, broker) as link:
            await link.connected()
            note_met(broker)
            await link.send(encode(request))
            with trio.move_on_after(ANSWER_S):
                while True:
                    match decode(await link.receive()):
                        case Answer(request=name) as found if name == request.request:
                            answers.append(found)
                            if found.is_last:
                                return answers
                        case Denied(request=name, why=why, fix=fix) if name == request.request:
                            raise denied(why, fix)
                        case _:
                            pass
            raise explained(Change.SILENT, broker)
    finally:
        context.term()


def denied(why: str, fix: str) -> CommandFailedError:
    """The broker says no."""
    return CommandFailedError("the broker refuses", why, fix or "holloway --help")


def run_job(broker: Broker, request: Ask | Attach, view: JobView, deadline_s: float) -> bool:
    """Ask for a job, or watch one, until it ends. Returns False when there was a Ctrl-C, which lets it go or, twice, cancels it.

    Raises BrokerError, CommandFailedError: the broker refuses, or is away for too long.
    """
    return trio.run(_Session(broker, request, view, deadline_s).run)


class _Session:
    """One job over one connection, which may be lost and come back."""

    def __init__(self, broker: Broker, request: Ask | Attach, view: JobView, deadline_s: float) -> None:
        self._broker, self._request, self._view = broker, request, view
        self._deadline_s = deadline_s
        self._job = request.job if isinstance(request, Attach) else ""
        self._life = ""
        self._position = 0
        self._is_done = False
        self._was_interrupted = False

    async def run(self) -> bool:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            with Link(context, self._broker) as link:
                await link.connected()
                note_met(self._broker)
                with trio.open_signal_receiver(signal.SIGINT) as signals:
                    async with trio.open_nursery() as nursery:
                        with trio.move_on_after(self._deadline_s + BEYOND_S):
                            nursery.start_soon(self._keep, link, nursery)
                            nursery.start_soon(self._heed_interrupts, signals, link, nursery)
                            await link.send(encode(self._request))
                            await self._listen(link)
                        nursery.cancel_scope.cancel()
        finally:
            context.term()
        if not self._is_done and not self._was_interrupted:
            raise CommandFailedError(
                "the job is not known to have ended",
                "the broker has said nothing until long after its deadline",
                f"holloway jobs wait {self._job}" if self._job else "holloway jobs list",
                ExitCode.TIMEOUT,
            )
        return not self._was_interrupted

    async def _listen(self, link: Link) -> None:
        while not self._is_done:
            message = decode(await link.receive())
            match message:
                case Denied(request=name, why=why, fix=fix) if name == self._request.request:
                    raise denied(why, fix)
                case Expect(request=name) if name == self._request.request:
                    if message.life != self._life:
                        self._position = 0  # another life of the broker shows everything anew
                        self._view.begin(message)
                    self._job, self._life = message.job, message.life
                    self._is_done = not message.job  # a dry run
                case NodeOutput() | Result() | Finished() if message.job == self._job:
                    await self._show(message, link)
                case Refusal() | _:
                    pass

    async def _show(self, message: NodeOutput | Result | Finished, link: Link) -> None:
        if message.position <= self._position:
            return
        self._view.take(message, gap=message.position - self._position - 1)
        self._position = message.position
        self._is_done = isinstance(message, Finished)
        if self._position % SEEN_EVERY == 0 or self._is_done:
            await link.send(encode(Seen(self._job, self._position)))

    async def _keep(self, link: Link, nursery: trio.Nursery) -> None:
        """Come back when the connection was lost, and go on where we were."""
        changes, heard = trio.open_memory_channel[Change](16)

        def tell(change: Change) -> None:
            with suppress(trio.WouldBlock):  # so many changes that nobody heard of tell nothing more
                changes.send_nowait(change)

        nursery.start_soon(link.watch, tell)
        async for change in heard:
            if change is Change.CONNECTED:
                again = (
                    Attach(self._request.request, self._job, self._life, self._position) if self._job else self._request
                )
                await link.send(encode(again))
            elif change is Change.DISCONNECTED:
                say("the broker has gone; waiting for it (the job goes on without it)")
            elif change is not Change.ABSENT:
                raise explained(change, link.broker)

    async def _heed_interrupts(self, signals: AsyncIterator[int], link: Link, nursery: trio.Nursery) -> None:
        """Ctrl-C lets the job go; once more cancels it."""
        await anext(signals)
        self._was_interrupted = True
        if not self._job:
            self._let_go(nursery)
            return
        say(f"job {self._job} goes on: holloway jobs wait {self._job}   (Ctrl-C again cancels it)")
        with trio.move_on_after(SECOND_S) as patience:
            await anext(signals)
        if not patience.cancelled_caught:
            say(f"cancelling job {self._job}")
            await link.send(encode(CancelJob(new_token(), self._job)))
            with trio.move_on_after(ANSWER_S):
                await anext(signals)
        self._let_go(nursery)

    def _let_go(self, nursery: trio.Nursery) -> None:
        nursery.cancel_scope.cancel()
