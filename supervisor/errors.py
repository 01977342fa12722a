"""The exceptions of the supervisor room.

    SupervisorError
    ├─ SpecError          a spec, or a request, that contradicts the tree; nothing has changed (also a ValueError)
    ├─ ChildStartError    a child failed, returned or ran out of time before it was ready
    │  └─ PoolFull        a pool already holds as many children as it may
    ├─ IntensityExceeded  a supervisor restarted its children too often and gave up
    ├─ GraceOverrun       a child is still running after its grace and the cancellation that followed it
    └─ ActorDown          what was asked of is not running

Responsible for saying what went wrong and where (every error that concerns a child carries its `path`). Not responsible
for crashes of actors: those travel as values in `Exit.error`, and as `__cause__` or `causes` of the errors here.
"""

from __future__ import annotations

from collections.abc import Iterable

ERROR_TEXT_LIMIT = 200  # characters of an error that a status page is given


class SupervisorError(Exception):
    """Root of what this room raises on purpose."""


class SpecError(SupervisorError, ValueError):
    """A spec that cannot hold, an unknown name, or a request that its child's state forbids. Nothing has changed."""


class ChildStartError(SupervisorError):
    """The child at `path` did not become ready. `why` says how; its own error, where it had one, is `__cause__`."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path} did not start: {why}")
        self.path = path
        self.why = why


class PoolFull(ChildStartError):
    """The pool at `path` already holds `limit` children. Nothing was started."""

    def __init__(self, path: str, limit: int) -> None:
        super().__init__(path, f"it holds {limit} children already")
        self.limit = limit


class IntensityExceeded(SupervisorError):
    """The supervisor at `path` spent more than `restarts` restarts inside `period` seconds.

    `causes` groups the crashes that spent the budget, oldest first. The causes of a supervisor further down that gave
    up are groups inside it, so `causes.split(OSError)` reaches the first error through any number of levels.
    """

    def __init__(self, path: str, restarts: int, period: float, causes: Iterable[Exception]) -> None:
        super().__init__(f"{path} gave up: more than {restarts} restarts in {period:g} s")
        self.path = path
        self.restarts = restarts
        self.period = period
        self.causes: ExceptionGroup[Exception] = ExceptionGroup(f"crashes under {path}", [_first(c) for c in causes])
        self.__cause__ = self.causes


class GraceOverrun(SupervisorError):
    """The child at `path` was told to stop and was then cancelled, and runs on: it shields itself, or never awaits."""

    def __init__(self, path: str, grace: float) -> None:
        super().__init__(f"{path} is still running after its grace of {grace:g} s and a cancellation")
        self.path = path
        self.grace = grace


class ActorDown(SupervisorError):
    """There is no running actor at `path` to serve the request."""

    def __init__(self, path: str, why: str = "it is not running") -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


def _first(error: Exception) -> Exception:
    """The error that began it: under failed starts of supervisors, and as a group where a supervisor gave up."""
    while isinstance(error, ChildStartError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error.causes if isinstance(error, IntensityExceeded) else error


def leaves(error: BaseException) -> list[BaseException]:
    """What a group holds, through any number of levels, in order; `error` itself when it is none."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for part in error.exceptions for leaf in leaves(part)]


def brief(error: BaseException) -> str:
    """`error` as one line of at most `ERROR_TEXT_LIMIT` characters, for status pages and logs. Of a group, which an actor
    with a nursery raises, the first it holds: that a nursery was left says nothing.
    """
    first, *others = leaves(error)
    text = " ".join(f"{type(first).__name__}: {first}{f' (and {len(others)} more)' if others else ''}".split())
    return text if len(text) <= ERROR_TEXT_LIMIT else text[: ERROR_TEXT_LIMIT - 1] + "…"


def shed(error: BaseException | None) -> None:
    """Drop the tracebacks of `error`, of what it came from and of what it groups.

    A traceback holds every frame it passed and so every local in them: sockets, batches, keys. It is worth that while
    subscribers and the log look at it, and not for as long as somebody remembers why a child last died.
    """
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        each.__traceback__ = None
        pending += (each.__cause__, each.__context__)
        if isinstance(each, BaseExceptionGroup):
            pending += each.exceptions
