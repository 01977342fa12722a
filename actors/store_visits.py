"""Being in the registry for as long as a node runs: visit after visit, with pauses between those that the registry refuses.

Not responsible for what is done there, nor for what is known meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import NoReturn, TypeVar, cast

import trio

from holloway.actors.registry import RegistryPort
from holloway.protocols.errors import HollowayError, RegistryError

RETRY_S = 1.0
RETRY_MAX_S = 4.0
"""The first pause, and the longest. After a visit that took as long as the longest one the next refusal is a new one: it is told, and
the pauses are short again."""

Failure = TypeVar("Failure", bound=HollowayError)
OpenStore = Callable[[], AbstractAsyncContextManager[RegistryPort]]


async def keep_visiting(
    open_store: OpenStore,
    visit: Callable[[RegistryPort], Awaitable[None]],
    tell: Callable[[HollowayError], None],
    *,
    survives: type[HollowayError] = RegistryError,
    retry_s: float = RETRY_S,
    retry_max_s: float = RETRY_MAX_S,
) -> NoReturn:
    """`visit` the registry, and once more when that returns, or raises what this `survives`, alone or in a group.

    `tell` hears why a visit ended, each reason once until there was a steady visit.
    """
    pause_s, told = retry_s, ""
    while True:
        began = trio.current_time()
        failure: HollowayError | None = None
        try:
            async with open_store() as registry:
                while True:
                    await visit(registry)
        except* survives as group:
            failure = first_of(group)
        assert failure is not None
        if trio.current_time() - began >= retry_max_s:
            pause_s, told = retry_s, ""
        if str(failure) != told:
            told = str(failure)
            tell(failure)
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, retry_max_s)


def first_of(group: BaseExceptionGroup[Failure]) -> Failure:
    """The refusal that matters most: one that waiting cannot mend."""
    leaves: list[Failure] = []
    todo: list[BaseException] = [group]
    while todo:
        error = todo.pop(0)
        if isinstance(error, BaseExceptionGroup):
            todo += error.exceptions
        else:
            leaves.append(cast("Failure", error))
    return next((error for error in leaves if isinstance(error, RegistryError) and error.kind == "denied"), leaves[0])
