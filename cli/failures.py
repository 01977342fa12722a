"""From any exception to three lines and an exit code.

`error:` says what happened, `why:` the cause, `fix:` the command or change that mends it. Not responsible for printing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import click

from holloway.cli.exit_codes import ExitCode
from holloway.cli.plain_text import one_line
from holloway.protocols.errors import BrokerError, ConfigError, HollowayError

MAX_CAUSES = 5  # of a group of failures that are told; the rest is counted
_BROKER_CODES = {"absent": ExitCode.UNREACHABLE, "denied": ExitCode.PERMISSION, "foreign": ExitCode.FAILED}
MAX_PROBLEMS_SHOWN = 50  # of a configuration, before the three lines


class CommandFailedError(HollowayError):
    """A verb could not do its work: the three lines, and the code to exit with."""

    def __init__(self, what: str, why: str, fix: str, code: int = ExitCode.FAILED) -> None:
        super().__init__(what, why, fix)
        self.code = code


@dataclass(frozen=True, slots=True)
class Explanation:
    """What to tell about a failure. `lines` go to stderr; none for an interruption."""

    lines: tuple[str, ...]
    code: int


def explain(error: BaseException) -> Explanation:
    """The lines and the exit code for `error`; a group of exceptions is told by its leaves, each cause once.

    When leaves disagree on the code, an interruption wins, else the first that is more exact than 1.
    """
    told: dict[tuple[str, ...], int] = {}
    for leaf in leaf_causes(error):
        lines, code = _explain_leaf(leaf)
        told.setdefault(lines, code)
    codes = list(told.values())
    if ExitCode.INTERRUPTED in codes:
        return Explanation((), ExitCode.INTERRUPTED)
    shown = [line for lines in list(told)[:MAX_CAUSES] for line in lines]
    if len(told) > MAX_CAUSES:
        shown.append(f"({len(told) - MAX_CAUSES} more failures; holloway --debug shows them)")
    exact = (code for code in codes if code != ExitCode.FAILED)
    return Explanation(tuple(shown), next(exact, ExitCode.FAILED))


def leaf_causes(error: BaseException) -> Iterator[BaseException]:
    """The exceptions inside nested groups, in order; `error` itself if it is no group."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaf_causes(each)
    else:
        yield error


def three_lines(what: object, why: object, fix: object) -> tuple[str, str, str]:
    """The form of every error."""
    return (f"error: {one_line(what)}", f"why:   {one_line(why)}", f"fix:   {one_line(fix)}")


def _explain_leaf(error: BaseException) -> tuple[tuple[str, ...], int]:
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return (), ExitCode.INTERRUPTED
    if isinstance(error, click.UsageError):
        return _explain_usage(error), ExitCode.USAGE
    if isinstance(error, click.ClickException):
        return three_lines(error.format_message(), "click refused it", "holloway --help"), error.exit_code
    if isinstance(error, HollowayError):
        return _explain_ours(error), _code(error)
    if isinstance(error, OSError):
        return _explain_system(error), _code(error)
    return three_lines(
        f"unexpected {type(error).__name__}",
        one_line(error) or "no message: this is a defect of holloway",
        "run it again as: holloway --debug …   and report what it prints",
    ), ExitCode.FAILED


def _explain_ours(error: HollowayError) -> tuple[str, ...]:
    problems = [one_line(problem) for problem in getattr(error, "problems", ())]
    head = problems[:MAX_PROBLEMS_SHOWN] if len(problems) > 1 else []
    cause = one_line(error.__cause__) if error.__cause__ is not None else "holloway did not say"
    return (*head, *three_lines(error.what, error.why or cause, error.fix or "holloway --debug … shows more"))


def _explain_system(error: OSError) -> tuple[str, ...]:
    why = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    place = f" ({error.filename})" if error.filename else ""
    fix = "run it as a user who may" if isinstance(error, PermissionError) else "holloway --debug … shows where"
    return three_lines("the system refused", f"{why}{place}", fix)


def _code(error: BaseException) -> int:
    """The most exact code: permission and time before the kind of our own error."""
    if isinstance(error, CommandFailedError):
        return error.code
    if isinstance(error, BrokerError):
        return _BROKER_CODES[error.kind]
    for each in (error, error.__cause__):
        if isinstance(each, PermissionError):
            return ExitCode.PERMISSION
        if isinstance(each, TimeoutError):
            return ExitCode.TIMEOUT
    return ExitCode.CONFIG if isinstance(error, ConfigError) else ExitCode.FAILED


def _explain_usage(error: click.UsageError) -> tuple[str, ...]:
    command = error.ctx.command_path if error.ctx is not None else "holloway"
    usage = " ".join(error.ctx.get_usage().split()).removeprefix("Usage: ") if error.ctx is not None else command
    if isinstance(error, click.NoSuchOption):
        what = f"unknown option {error.option_name}"
        close = min(error.possibilities or (), default=None)
        fix = f"{command} {close}" if close else f"{command} --help"
        return three_lines(what, f"{command} has no such option", fix)
    if isinstance(error, UnknownVerbError):
        fix = f"{command} {error.suggestion}" if error.suggestion else f"{command} --help"
        return three_lines(f"unknown verb {error.verb}", f"{command} has: {', '.join(error.verbs)}", fix)
    what = error.format_message().strip().rstrip(".")
    why = f"the form is: {usage}"
    if error.ctx is not None and isinstance(error.ctx.command, click.Group):
        why = f"{command} has: {', '.join(error.ctx.command.list_commands(error.ctx))}"
    return three_lines(what[:1].lower() + what[1:], why, f"{command} --help")


class UnknownVerbError(click.UsageError):
    """A word that is no verb of its group. `suggestion` is the nearest, if one is near."""

    def __init__(self, verb: str, verbs: list[str], suggestion: str | None, ctx: click.Context) -> None:
        super().__init__(f"unknown verb {verb}", ctx)
        self.verb = verb
        self.verbs = verbs
        self.suggestion = suggestion
