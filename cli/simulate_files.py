"""The files that `holloway simulate` writes about one run: trace, page and packets. Not responsible for what is in them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, NamedTuple, TypeAlias

from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError

if TYPE_CHECKING:
    from holloway.simulations.capture import Capture
    from holloway.simulations.plan import Plan
    from holloway.simulations.run import Outcome
    from holloway.simulations.trace import Trace

Opened: TypeAlias = "tuple[Trace, Capture | None, Callable[[Outcome], None]]"


class Files(NamedTuple):
    """The names of those that are wanted."""

    trace: str | None
    html: str | None
    pcap: str | None

    @contextmanager
    def opened(self, plan: Plan, replay: str) -> Iterator[Opened]:
        """What the run is to be told to, and what to call with its outcome. All files are made before the run.

        Raises `CommandFailedError` when one cannot be.
        """
        from holloway.simulations.trace import Trace

        names = [os.path.realpath(name) for name in self if name is not None]
        if len(dict.fromkeys(names)) < len(names):
            raise CommandFailedError(
                "cannot write two things to one file", names[0], "name a file for each", ExitCode.USAGE
            )
        with ExitStack() as stack:
            lines: IO[str] | None = None
            capture: Capture | None = None
            page: IO[str] | None = None
            if self.trace is not None:
                lines = stack.enter_context(_open_text(self.trace, "w" if self.html is None else "w+"))
            if self.html is not None:
                page = stack.enter_context(_open_text(self.html, "w"))
                if lines is None:
                    lines = stack.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
            if self.pcap is not None:
                from holloway.simulations.capture import Capture

                capture = Capture(stack.enter_context(_open_bytes(self.pcap)))

            def finish(outcome: Outcome) -> None:
                if page is not None and lines is not None:
                    _write_page(page, lines, plan, outcome, replay)

            yield Trace(lines), capture, finish


def _write_page(page: IO[str], lines: IO[str], plan: Plan, outcome: Outcome, replay: str) -> None:
    from holloway.simulations.report import write_report

    lines.flush()
    lines.seek(0)
    verdict = "every property held" if outcome.failure is None else f"{outcome.failure.property} does not hold"
    write_report(page, plan, lines, replay=replay, verdict=verdict, failure=outcome.failure)


def _open_text(name: str, mode: str) -> IO[str]:
    try:
        return open(name, mode, encoding="utf-8")
    except OSError as error:
        raise _cannot_write(name, error) from error


def _open_bytes(name: str) -> IO[bytes]:
    try:
        return open(name, "wb")
    except OSError as error:
        raise _cannot_write(name, error) from error


def _cannot_write(name: str, error: OSError) -> CommandFailedError:
    return CommandFailedError(
        f"cannot write {name}", error.strerror or str(error), "name a file in a directory of yours", ExitCode.USAGE
    )
